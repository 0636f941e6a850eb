"""The mapfile of one collection: rendering it from plain data, and validating it before publication.

Pure: this module reads no file and no database. The statewide map is in `statewide_map`, tile documents are in `tiles`, and the
caller (`ls4_assets.publishing.maps`) publishes and withdraws.

Layer names (`<Name>`, `<Name>_index`), MAP NAME and title are a contract with published maps. A mapfile contains no secret and no
local path: it refers to PostgreSQL by service and to frames by the index table, so the same file works on a folder and on S3.
A collection without frames has no mapfile.
"""

import re
from dataclasses import dataclass

from ls4_assets.domain.capabilities import Capabilities
from mapserver.rendering import Extent, render_template

# The attributes of a footprint in GetFeatureInfo and WFS, in this order.
ATTRIBUTES = ("date", "roll", "frame_num", "acquired", "band", "dl_orig", "dl_georef", "dl_index")

# The imagery layer reads frames or, when zoomed out, the overview mosaic: MapServer replaces the token by one of the suffixes.
SCALE_TOKEN, FRAMES_SUFFIX, OVERVIEW_SUFFIX = "%lod%", "tileindex", "overview"
# The overview mosaic is read when a map pixel is at least this many mosaic pixels wide. Web maps request exactly 1, 2 or 1/2;
# maps in degrees measure ground meters, and 1 m of EPSG:3857 is 0.87 m on the ground at 30 degrees of latitude.
_MIN_OVERVIEW_PIXELS = 0.85
# Above the scale of a map of the world that is two pixels wide.
_MAX_SCALE = "1e12"
# MapServer computes scale denominators with 72 pixels per inch.
_PIXELS_PER_METER = 72 * 39.3701

_NAME = re.compile(r"[A-Za-z0-9_]+")
_LAYER = re.compile(r"^  LAYER$(.*?)^  END$", re.MULTILINE | re.DOTALL)
_SCALE_VALUES = re.compile(rf'^\s*NAME "{SCALE_TOKEN}"\s+VALUES$(.*?)^\s*END$', re.MULTILINE | re.DOTALL)
_SCALE_SUFFIX = re.compile(r'^\s*"[\d.]+" "(\w+)"$', re.MULTILINE)
_ALLOWED_CONFIG = ("ON_MISSING_DATA",)
_SECRET = re.compile(r"\b(?:password|passwd|user|secret|credentials?)\s*=|\b(?:aws|azure)_\w+|\w*_key\b", re.IGNORECASE)


@dataclass(frozen=True)
class MapfileContext:
    """The input of one mapfile. Raises ValueError for values that cannot be served.

    name: the collection's Name, also the imagery layer (`Adams_USDA_1958_frames`).
    map_name: MAP NAME; must differ from every layer name (`ADAMSUSDA1958FRAMES`).
    title: WMS title (`Adams Usda 1958 Frames`).
    table: index table, also the address under `/wms/` (`adams_usda_1958_frames`).
    extent: minx, miny, maxx, maxy of all footprints, in EPSG:3857 meters.
    capabilities: what the archive file adds to the capabilities, such as the coordinate systems.
    service: the PostgreSQL service that mapserv connects to.
    overview_resolution: EPSG:3857 meters per pixel of the overview mosaic; None: frames are read at every scale.
    """

    name: str
    map_name: str
    title: str
    table: str
    extent: Extent
    capabilities: Capabilities
    service: str = "ls4"
    overview_resolution: float | None = None

    def __post_init__(self) -> None:
        minx, miny, maxx, maxy = self.extent
        if not (minx < maxx and miny < maxy):
            raise ValueError(f"{self.name} has no valid extent ({self.extent}): withdraw its mapfile instead.")
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not a collection name: use letters, digits and underscores.")
        if self.table != self.name.lower():
            raise ValueError(f"{self.table!r} is not the index table of {self.name}: use the name in lower case.")
        if self.map_name in (self.name, self.footprint_layer, self.tile_index_layer):
            raise ValueError(f"MAP NAME {self.map_name} is also a layer name: choose another.")

    @property
    def footprint_layer(self) -> str:
        return f"{self.name}_index"

    @property
    def tile_index_layer(self) -> str:
        """A hidden layer. Its name differs from the footprint layer of an index collection (`..._index_index`)."""
        return f"{self.name}_{FRAMES_SUFFIX}"

    @property
    def overview_layer(self) -> str:
        """A hidden layer that the imagery layer reads from `overview_scale` on."""
        return f"{self.name}_{OVERVIEW_SUFFIX}"

    @property
    def imagery_index(self) -> str:
        """TILEINDEX of the imagery layer. With an overview mosaic it ends in the token, which stands for one of the suffixes."""
        return self.tile_index_layer if self.overview_resolution is None else f"{self.name}_{SCALE_TOKEN}"

    @property
    def overview_scale(self) -> float | None:
        """MapServer's scale denominator from which the overview mosaic is read; None without a mosaic."""
        if self.overview_resolution is None:
            return None
        return self.overview_resolution * _MIN_OVERVIEW_PIXELS * _PIXELS_PER_METER

    @property
    def abstract(self) -> str:
        citation = self.capabilities.citation
        return f"Scanned and georeferenced aerial photographs: {self.title}.{f' Cite as: {citation}' if citation else ''}"

    @property
    def features_address(self) -> str:
        return f"/ogcapi/{self.table}"


def render(context: MapfileContext) -> str:
    """The mapfile's text."""
    suffixes = {"token": SCALE_TOKEN, "frames": FRAMES_SUFFIX, "overview": OVERVIEW_SUFFIX}
    return render_template(
        "collection.map.j2",
        context=context,
        attributes=ATTRIBUTES,
        capabilities=context.capabilities,
        max_scale=_MAX_SCALE,
        **suffixes,
    )


def validate_mapfile(text: str) -> list[str]:
    """The faults of a mapfile that is about to be published, as sentences; empty when it is valid.

    Finds secrets, host names (each response must name the host of its request) and layers that break the contract. MapServer
    itself checks the syntax.
    """
    layers = {_first_value(body, "NAME"): body for body in _LAYER.findall(text)}
    faults = [f"The mapfile contains {word!r}: put secrets in the service file." for word in _find_secrets(text)]
    for connection in re.findall(r'^\s*CONNECTION\s+"(.*)"$', text, re.MULTILINE):
        if not re.fullmatch(r"service=\w+", connection):
            # The value is left out because faults are logged.
            faults.append("A CONNECTION is not a service name: use service=<name>.")
    for option in re.findall(r'^\s*CONFIG\s+"(.*?)"', text, re.MULTILINE):
        if option not in _ALLOWED_CONFIG:
            faults.append(f"CONFIG {option} would affect other maps: set it in mapserver.conf.")
    addresses = re.findall(r"https?://[^\s\"'<>]+", text)
    faults += [f"The mapfile contains the address {address}: remove it." for address in addresses]
    return faults + _validate_layers(text, layers)


def _validate_layers(text: str, layers: dict[str, str]) -> list[str]:
    imagery = [name for name, body in layers.items() if _first_value(body, "TYPE") == "RASTER"]
    if len(imagery) != 1:
        return [f"The mapfile has {len(imagery)} imagery layers: it must have exactly one."]
    name = imagery[0]
    faults = []
    if f"{name}_index" not in layers:
        faults.append(f"The footprint layer {name}_index is missing: published maps request it.")
    if len(_LAYER.findall(text)) != len(layers):
        faults.append("Two layers have the same name: MapServer would serve only one of them.")
    if _first_value(text, "NAME") in layers:
        faults.append("MAP NAME is also a layer name: choose another.")
    for tile_index in _tile_index_layers(layers[name]):
        if '"ows_enable_request" "!*"' not in layers.get(tile_index, ""):
            faults.append(f"The tile index {tile_index} is missing or public: define it as a layer that rejects every request.")
    return faults


def _tile_index_layers(imagery: str) -> list[str]:
    """Names of the layers that an imagery layer reads, one for each scale range."""
    pattern = _first_value(imagery, "TILEINDEX")
    if SCALE_TOKEN not in pattern:
        return [pattern]
    values = _SCALE_VALUES.search(imagery)
    return [pattern.replace(SCALE_TOKEN, suffix) for suffix in _SCALE_SUFFIX.findall(values[1])] if values else [pattern]


def _find_secrets(text: str) -> list[str]:
    return sorted({match.strip("= ").lower() for match in _SECRET.findall(text)})


def _first_value(block: str, keyword: str) -> str:
    """The first value of a keyword in a block, without quotes; empty when the keyword is missing."""
    match = re.search(rf'^\s*{keyword}\s+"?([^"\n]*)"?$', block, re.MULTILINE)
    return match[1] if match else ""
