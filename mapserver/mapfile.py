"""The mapfile of one collection: rendered from plain data, and read over before it is published.

Pure: no file is written, no database asked. Layer names (`<Name>`, `<Name>_index`), MAP NAME and title are a
  contract with published maps. A mapfile holds no secret and no path of a machine: PostgreSQL is named by
  service, frames by the index table, so that the same file serves from a laptop's folder and from S3.

A collection without frames has no mapfile: the caller withdraws it.
"""

import re
from dataclasses import dataclass

from ls4_assets.domain.contact import Contact
from mapserver.rendering import Extent, environment

# What clients may ask for: the web's, then what a county's GIS works in (UTM of both datums, the state's planes and its Albers).
_CODES = (3857, 4326, 900913, 4269, 26913, 26914, 26915, 32613, 32614, 32615, 2275, 2276, 2277, 2278, 2279, 3081)
SRS = " ".join(f"EPSG:{code}" for code in _CODES)

# What a person who clicks a footprint gets to read, in this order.
ATTRIBUTES = ("date", "roll", "frame_num", "acquired", "band", "dl_orig", "dl_georef", "dl_index")

# The imagery layer's names for what it reads: frames, or from a scale on the overview mosaic.
TOKEN, FRAMES, OVERVIEW = "%lod%", "tileindex", "overview"
# A pixel of the map must be at least this many of the mosaic's wide. Web maps ask for just 1, or 2 or 1/2; those in degrees
# count metres on the ground, of which a mosaic's pixel has 0.87 in the middle of Texas.
_OVERVIEW_FROM = 0.85
# 72 pixels to the inch, as MapServer has it.
_PIXELS_A_METRE = 72 * 39.3701

_NAME = re.compile(r"[A-Za-z0-9_]+")
_LAYER = re.compile(r"^  LAYER$(.*?)^  END$", re.MULTILINE | re.DOTALL)
_BY_SCALE = re.compile(rf'^\s*NAME "{TOKEN}"\s+VALUES$(.*?)^\s*END$', re.MULTILINE | re.DOTALL)
_SCALE_WORD = re.compile(r'^\s*"[\d.]+" "(\w+)"$', re.MULTILINE)
_CONFIG = ("ON_MISSING_DATA",)
_SECRET = re.compile(r"\b(?:password|passwd|user|secret|credentials?)\s*=|\baws_\w+|\w*_key\b", re.IGNORECASE)


@dataclass(frozen=True)
class MapfileContext:
    """What one mapfile is made from.

    name: the collection's Name, also the imagery layer (`Travis_USDA_1958_frames`).
    map_name: MAP NAME, must differ from every layer name (`TRAVISUSDA1958FRAMES`).
    title: WMS title (`Travis Usda 1958 Frames`).
    table: index table, also the address under `/wms/` (`travis_usda_1958_frames`).
    extent: minx, miny, maxx, maxy of all footprints in EPSG:3857 metres.
    contact: printed in the capabilities when given.
    overview_resolution: metres a pixel of the overview mosaic, in EPSG:3857; None: frames are read at every scale.
    service: the PostgreSQL service that mapserv connects to.
    """

    name: str
    map_name: str
    title: str
    table: str
    extent: Extent
    contact: Contact | None = None
    service: str = "ls4"
    overview_resolution: float | None = None

    def __post_init__(self) -> None:
        minx, miny, maxx, maxy = self.extent
        if not (minx < maxx and miny < maxy):
            raise ValueError(f"{self.name} has no extent {self.extent}: withdraw its mapfile instead.")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no collection's name: use letters, digits and underscores.")
        if self.table != self.name.lower():
            raise ValueError(f"{self.table!r} is not the index table of {self.name}: use its lower case.")
        if self.map_name in (self.name, self.footprint_layer, self.tile_index_layer):
            raise ValueError(f"MAP NAME {self.map_name} is also a layer's name: choose another.")

    @property
    def footprint_layer(self) -> str:
        return f"{self.name}_index"

    @property
    def tile_index_layer(self) -> str:
        """Hidden; the name of an index collection's footprints (`..._index_index`) must not meet it."""
        return f"{self.name}_{FRAMES}"

    @property
    def overview_layer(self) -> str:
        """Hidden: what is read from `overview_scale` on."""
        return f"{self.name}_{OVERVIEW}"

    @property
    def imagery_index(self) -> str:
        """What the imagery layer reads; the token stands for the end of one of the two names above."""
        return self.tile_index_layer if self.overview_resolution is None else f"{self.name}_{TOKEN}"

    @property
    def overview_scale(self) -> float | None:
        """Scale denominator, as MapServer counts them, from which the overview mosaic is read."""
        if self.overview_resolution is None:
            return None
        return self.overview_resolution * _OVERVIEW_FROM * _PIXELS_A_METRE

    @property
    def abstract(self) -> str:
        return f"Scanned and georeferenced aerial photographs: {self.title}."

    @property
    def features_address(self) -> str:
        return f"/ogcapi/{self.table}"


def render(context: MapfileContext) -> str:
    """The mapfile's text."""
    names = {"token": TOKEN, "frames": FRAMES, "overview": OVERVIEW}
    return environment().get_template("collection.map.j2").render(context=context, attributes=ATTRIBUTES, srs=SRS, **names)


def findings(mapfile_text: str) -> list[str]:
    """What is wrong with a mapfile that is about to be published; empty when nothing is.

    Secrets, hosts (every answer names the one that was asked), and broken promises about layers. MapServer itself stays the
    judge of syntax.
    """
    layers = {_value(body, "NAME"): body for body in _LAYER.findall(mapfile_text)}
    found = [f"It holds {word!r}: secrets belong into the service file." for word in _secrets(mapfile_text)]
    for connection in re.findall(r'^\s*CONNECTION\s+"(.*)"$', mapfile_text, re.MULTILINE):
        if not re.fullmatch(r"service=\w+", connection):
            # Not what it is: findings go into logs.
            found.append("A CONNECTION is not a service name: use service=<name>.")
    for option in re.findall(r'^\s*CONFIG\s+"(.*?)"', mapfile_text, re.MULTILINE):
        if option not in _CONFIG:
            found.append(f"CONFIG {option} would leak into other maps: set it in mapserver.conf.")
    addresses = re.findall(r"https?://[^\s\"'<>]+", mapfile_text)
    found += [f"It names {address}: no address may stand in a mapfile." for address in addresses]
    return found + _layer_findings(mapfile_text, layers)


def _layer_findings(text: str, layers: dict[str, str]) -> list[str]:
    imagery = [name for name, body in layers.items() if _value(body, "TYPE") == "RASTER"]
    if len(imagery) != 1:
        return [f"It has {len(imagery)} imagery layers: there must be exactly one."]
    name = imagery[0]
    found = []
    if f"{name}_index" not in layers:
        found.append(f"The footprint layer {name}_index is missing: published maps ask for it.")
    if len(_LAYER.findall(text)) != len(layers):
        found.append("Two layers have the same name: MapServer would serve only one of them.")
    if _value(text, "NAME") in layers:
        found.append("MAP NAME is also a layer's name: choose another.")
    for tile_index in _tile_indexes(layers[name]):
        if '"ows_enable_request" "!*"' not in layers.get(tile_index, ""):
            found.append(f"The tile index {tile_index} is missing or public: it must be a layer that no request may name.")
    return found


def _tile_indexes(imagery: str) -> list[str]:
    """The layers that an imagery layer reads, by scale."""
    pattern = _value(imagery, "TILEINDEX")
    if TOKEN not in pattern:
        return [pattern]
    values = _BY_SCALE.search(imagery)
    return [pattern.replace(TOKEN, word) for word in _SCALE_WORD.findall(values[1])] if values else [pattern]


def _secrets(text: str) -> list[str]:
    return sorted({found.strip("= ").lower() for found in _SECRET.findall(text)})


def _value(block: str, keyword: str) -> str:
    """The first value of a keyword in a block, without its quotes; empty when there is none."""
    match = re.search(rf'^\s*{keyword}\s+"?([^"\n]*)"?$', block, re.MULTILINE)
    return match[1] if match else ""
