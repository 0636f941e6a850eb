"""The mapfile of one collection: rendered from plain data, and read over before it is published.

Pure: no file is written, no database asked. Layer names (`<Name>`, `<Name>_index`), MAP NAME and title are a
  contract with published maps. A mapfile holds no secret and no path of a machine: PostgreSQL is named by
  service, frames by the index table, so that the same file serves from a laptop's folder and from S3.

A collection without frames has no mapfile: the caller withdraws it.
"""

import re
from dataclasses import dataclass

from mapserver.rendering import Extent, environment

# What clients may ask for: the web's, then what a county's GIS works in (UTM, the state's planes and its Albers).
_CODES = (3857, 4326, 900913, 4269, 26913, 26914, 26915, 2275, 2276, 2277, 2278, 2279, 3081)
SRS = " ".join(f"EPSG:{code}" for code in _CODES)

# What a person who clicks a footprint gets to read, in this order.
ATTRIBUTES = ("date", "roll", "frame_num", "acquired", "band", "dl_orig", "dl_georef", "dl_index")

_NAME = re.compile(r"[A-Za-z0-9_]+")
_PUBLIC_URL = re.compile(r"https?://[\w.:/@~%-]*[\w~-]")
_LAYER = re.compile(r"^  LAYER$(.*?)^  END$", re.MULTILINE | re.DOTALL)
_CONFIG = ("ON_MISSING_DATA",)
_SECRET = re.compile(r"\b(?:password|passwd|user|secret|credentials?)\s*=|\baws_\w+|\w*_key\b", re.IGNORECASE)


@dataclass(frozen=True)
class Contact:
    """Who answers for the service. Capabilities want the whole block or none of it, hence no defaults."""

    person: str
    organisation: str
    position: str
    email: str
    telephone: str
    facsimile: str
    address: str
    city: str
    state: str
    postcode: str
    country: str


@dataclass(frozen=True)
class MapfileContext:
    """What one mapfile is made from.

    name: the collection's Name, also the imagery layer (`Travis_USDA_1958_frames`).
    map_name: MAP NAME, must differ from every layer name (`TRAVISUSDA1958FRAMES`).
    title: WMS title (`Travis Usda 1958 Frames`).
    table: index table, also the address under `/wms/` (`travis_usda_1958_frames`).
    extent: minx, miny, maxx, maxy of all footprints in EPSG:3857 metres.
    public_url: scheme and host of the service without a trailing slash; None lets every answer name the host
      that was asked, which is right where the port changes from start to start.
    contact: printed in the capabilities when given.
    service: the PostgreSQL service that mapserv connects to.
    """

    name: str
    map_name: str
    title: str
    table: str
    extent: Extent
    public_url: str | None = None
    contact: Contact | None = None
    service: str = "ls4"

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
        if self.public_url is not None and not _PUBLIC_URL.fullmatch(self.public_url):
            raise ValueError(f"{self.public_url!r} is no public address: give scheme and host, no slash after.")

    @property
    def footprint_layer(self) -> str:
        return f"{self.name}_index"

    @property
    def tile_index_layer(self) -> str:
        """Hidden; the name of an index collection's footprints (`..._index_index`) must not meet it."""
        return f"{self.name}_tileindex"

    @property
    def abstract(self) -> str:
        return f"Scanned and georeferenced aerial photographs: {self.title}."

    @property
    def features_address(self) -> str:
        return f"{self.public_url or ''}/ogcapi/{self.table}"


def render(context: MapfileContext) -> str:
    """The mapfile's text."""
    return environment().get_template("collection.map.j2").render(context=context, attributes=ATTRIBUTES, srs=SRS)


def findings(mapfile_text: str, public_url: str | None = None) -> list[str]:
    """What is wrong with a mapfile that is about to be published; empty when nothing is.

    Secrets, hosts other than `public_url`'s, and broken promises about layers. MapServer itself stays the
    judge of syntax.
    """
    layers = {_value(body, "NAME"): body for body in _LAYER.findall(mapfile_text)}
    found = [f"It holds {word!r}: secrets belong into the service file." for word in _secrets(mapfile_text)]
    for connection in re.findall(r'^\s*CONNECTION\s+"(.*)"$', mapfile_text, re.MULTILINE):
        if not re.fullmatch(r"service=\w+", connection):
            found.append(f"CONNECTION {connection!r} is not a service name: use service=<name>.")
    for option in re.findall(r'^\s*CONFIG\s+"(.*?)"', mapfile_text, re.MULTILINE):
        if option not in _CONFIG:
            found.append(f"CONFIG {option} would leak into other maps: set it in mapserver.conf.")
    for address in re.findall(r"https?://[^\s\"'<>]+", mapfile_text):
        if public_url is None or not (address + "/").startswith(public_url + "/"):
            found.append(f"It names {address}: only addresses under the public one may stand in a mapfile.")
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
    tile_index = layers.get(_value(layers[name], "TILEINDEX"))
    if tile_index is None or '"ows_enable_request" "!*"' not in tile_index:
        found.append("The tile index is missing or public: it must be a layer that no request may name.")
    return found


def _secrets(text: str) -> list[str]:
    return sorted({found.strip("= ").lower() for found in _SECRET.findall(text)})


def _value(block: str, keyword: str) -> str:
    """The first value of a keyword in a block, without its quotes; empty when there is none."""
    match = re.search(rf'^\s*{keyword}\s+"?([^"\n]*)"?$', block, re.MULTILINE)
    return match[1] if match else ""
