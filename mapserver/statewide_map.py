"""The statewide map: one mapfile for all collections, rendered from the public views of the database and without any state.

Zoomed out it shows the outlines of collections, closer their overview mosaics, and closest the frames. It does not change when a
collection is added or removed. One collection's mapfile is in `mapfile`.
"""

from ls4_assets.domain.archive_file import ArchiveDescription
from mapserver.rendering import TEMPLATES, render_template
from mapserver.tiles import (
    HALF_WORLD_METERS,
    TILEJSON_SUFFIX,
    WMTS_SUFFIX,
    ZOOM_0_RESOLUTION,
    TileSet,
    render_tilejson,
    render_wmts,
)

# The published address and layer name.
NAME = "catalog"
IMAGERY, COLLECTIONS = "imagery", "collections"
# Outlines are drawn over the imagery.
TILE_LAYERS = f"{IMAGERY},{COLLECTIONS}"

# MapServer's scale denominators. Below the first (zoom 10 of web maps and deeper) a tile is smaller than a county, so it needs
# few mosaics; below the second (zoom 16 and deeper) it contains few frames of each year.
IMAGERY_BELOW = 600_000
FRAMES_BELOW = 10_000

ATTRIBUTES = (
    *("name", "title", "shard", "agency", "year", "type", "bands", "frames", "version"),
    *("page", "wms", "tiles", "wmts", "features"),
)
# Of a frame in the answer to a query of the imagery layer.
FRAME_ATTRIBUTES = ("collection", "title", "year", "band", "frame", "page", "wms")

# Of the dimension TIME while there are no collections. Aerial photography began in 1858.
_YEARS = (1858, 2099)
# Layers that nginx requests (templates/photographs.map.j2): one photograph alone, and the photographs that cover a point.
PHOTOGRAPH, PHOTOGRAPHS = "photograph", "photographs"
PHOTOGRAPH_COLUMNS = (
    *("id", "collection", "table_name", "title", "shard", "agency", "year", "type", "version", "film_type", "stem", "acquired"),
    *("roll", "frame_num", "pixel_size", "thumbnail", "dl_georef", "dl_orig"),
)

_WORLD = (-HALF_WORLD_METERS, -HALF_WORLD_METERS, HALF_WORLD_METERS, HALF_WORLD_METERS)


def render_documents(service: str, archive: ArchiveDescription) -> dict[str, str]:
    """The mapfile and its documents, by file name. `service`: the PostgreSQL service that mapserv connects to."""
    capabilities = archive.capabilities
    # The whole world: the document must stay valid as collections are added.
    resolution = ZOOM_0_RESOLUTION / 2**20
    tile_set = TileSet(NAME, NAME, capabilities.title, _WORLD, resolution, None, capabilities.attribution, capabilities.license)
    return {
        f"{NAME}.map": render(service, archive),
        **{name: (TEMPLATES / name).read_text() for name in (f"{NAME}.html", "frame.html")},
        f"{NAME}{TILEJSON_SUFFIX}": render_tilejson(tile_set),
        f"{NAME}{WMTS_SUFFIX}": render_wmts(tile_set),
    }


def render(service: str, archive: ArchiveDescription) -> str:
    """The mapfile's text."""
    return render_template(
        "catalog.map.j2",
        service=service,
        extent=_WORLD,
        capabilities=archive.capabilities,
        example=archive.naming.example_collection,
        imagery=IMAGERY,
        collections=COLLECTIONS,
        imagery_below=IMAGERY_BELOW,
        frames_below=FRAMES_BELOW,
        attributes=ATTRIBUTES,
        frame_attributes=FRAME_ATTRIBUTES,
        years=_YEARS,
        photograph=PHOTOGRAPH,
        photographs=PHOTOGRAPHS,
        columns=PHOTOGRAPH_COLUMNS,
    )
