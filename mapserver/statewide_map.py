"""The statewide map: every collection in one mapfile without any state, over the public views of the index database.

Far out it shows where there are collections, closer their overview mosaics, and closest the frames themselves. Nothing in it is
made anew when a collection comes or goes.
"""

from mapserver.mapfile import SRS
from mapserver.rendering import TEMPLATES, environment
from mapserver.tiles import HALF, TILEJSON_SUFFIX, WMTS_SUFFIX, ZOOM_0, TileSet, tilejson, wmts

NAME = "catalog"
TITLE = "All collections"
IMAGERY, COLLECTIONS = "imagery", "collections"
# The outlines lie on top.
TILE_LAYERS = f"{IMAGERY},{COLLECTIONS}"

# Scale denominators, as MapServer counts them. Up to the first (zoom 10 of web maps and deeper) a tile is smaller than a county,
# so that few mosaics are opened for it; up to the second (zoom 16 and deeper) it holds few frames of each year.
IMAGERY_BELOW = 600_000
FRAMES_BELOW = 10_000

ATTRIBUTES = (
    *("name", "title", "shard", "agency", "year", "type", "bands", "frames", "version"),
    *("page", "wms", "tiles", "wmts", "features"),
)


def documents(service: str) -> dict[str, str]:
    """The mapfile and the documents beside it, by file name."""
    # No bounds of its own: what there is comes and goes without this file.
    everywhere = TileSet(NAME, NAME, TITLE, (-HALF, -HALF, HALF, HALF), ZOOM_0 / 2**20, version=None)
    return {
        f"{NAME}.map": render(service),
        f"{NAME}.html": (TEMPLATES / f"{NAME}.html").read_text(),
        f"{NAME}{TILEJSON_SUFFIX}": tilejson(everywhere),
        f"{NAME}{WMTS_SUFFIX}": wmts(everywhere),
    }


def render(service: str) -> str:
    """The mapfile's text."""
    extent = (-HALF, -HALF, HALF, HALF)
    return (
        environment()
        .get_template("catalog.map.j2")
        .render(
            service=service,
            extent=extent,
            title=TITLE,
            imagery=IMAGERY,
            collections=COLLECTIONS,
            imagery_below=IMAGERY_BELOW,
            frames_below=FRAMES_BELOW,
            attributes=ATTRIBUTES,
            srs=SRS,
        )
    )
