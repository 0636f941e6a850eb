"""A collection's frames of one band as a GDAL Raster Tile Index: a GeoPackage that GDAL 3.9 and later opens as one raster.

Format: https://gdal.org/drivers/raster/gti.html. The stacking of overlapping frames is that of the map. Locations are the COGs'
public addresses, so that the file works wherever it is copied to.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median_low

from ls4_assets.db.schema import WEB_MERCATOR
from ls4_assets.domain.names import Collection, FilmType
from ls4_assets.publishing.footprints import properties
from ls4_assets.publishing.rows import Cog, Shown

_COLOURS: dict[FilmType, str] = {"bw": "gray", "nc": "red,green,blue"}
# Each frame has overviews of its own, by halves.
_OVERVIEW_FACTORS = (2, 4, 8, 16)


def write_mosaic_index(of: Collection, film_type: FilmType, frames: Sequence[Shown], public_url: str, path: Path) -> bool:
    """False, and nothing is written, when there is no such frame whose place is known."""
    placed = [(shown, shown.cog) for shown in frames if shown.frame.film_type == film_type and shown.cog]
    if not placed:
        return False
    import geopandas
    import pyogrio
    import shapely

    rows = [
        properties(of, shown, public_url) | {"location": f"/vsicurl/{public_url}/{shown.frame.cog_key}", "oid": shown.oid}
        for shown, _ in placed
    ]
    boxes = [shapely.box(*cog.box) for _, cog in placed]
    table = geopandas.GeoDataFrame(rows, geometry=boxes, crs=f"EPSG:{WEB_MERCATOR}")
    options = {"driver": "GPKG", "layer": of.name.lower(), "layer_metadata": _metadata(film_type, [cog for _, cog in placed])}
    pyogrio.write_dataframe(table, path, **options)
    return True


def _metadata(film_type: FilmType, cogs: Sequence[Cog]) -> dict[str, str]:
    """The mosaic's grid: pixels as wide as those of the middle one of all frames, sorted by resolution."""
    colours = _COLOURS[film_type]
    return {
        # That of a frame, to the last digit: its own pixels then fall on the mosaic's.
        "RESX": repr(median_low(cog.transform[0] for cog in cogs)),
        "RESY": repr(median_low(-cog.transform[4] for cog in cogs)),
        "BAND_COUNT": str(len(colours.split(","))),
        "DATA_TYPE": "Byte",
        "COLOR_INTERPRETATION": colours,
        "MASK_BAND": "YES",
        "SORT_FIELD": "oid",
        "BLOCKXSIZE": "512",
        "BLOCKYSIZE": "512",
        **{f"OVERVIEW_{number}_FACTOR": str(factor) for number, factor in enumerate(_OVERVIEW_FACTORS)},
    }
