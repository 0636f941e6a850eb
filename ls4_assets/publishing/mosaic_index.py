"""A collection's frames of one film type as a GDAL Raster Tile Index: a GeoPackage that GDAL 3.9 and later opens as one raster.

Format: https://gdal.org/drivers/raster/gti.html. Overlapping frames are stacked as on the map. Locations are the public URLs of
the COGs, so the file also works after it is downloaded. The tile index that people see in PostGIS is in `db.tile_index`.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median_low

from ls4_assets.db.schema import WEB_MERCATOR
from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.names import Collection
from ls4_assets.publishing.footprints import feature_properties
from ls4_assets.publishing.rows import Cog, IndexedFrame

# The frames' own overviews: each has half the resolution of the previous one.
_OVERVIEW_FACTORS = (2, 4, 8, 16)


def write_mosaic_index(collection: Collection, frames: Sequence[IndexedFrame], public_url: str, path: Path) -> None:
    """Write the index of frames of one film type. Each has a COG whose location is known."""
    import geopandas
    import pyogrio
    import shapely

    rows = [
        feature_properties(collection, indexed, public_url)
        | {"location": f"/vsicurl/{public_url}/{indexed.frame.cog_key}", "oid": indexed.oid}
        for indexed in frames
    ]
    cogs = [indexed.cog for indexed in frames if indexed.cog]
    boxes = [shapely.box(*cog.box) for cog in cogs]
    table = geopandas.GeoDataFrame(rows, geometry=boxes, crs=f"EPSG:{WEB_MERCATOR}")
    options = {
        "driver": "GPKG",
        "layer": collection.name.lower(),
        "layer_metadata": _metadata(frames[0].frame.film_type, cogs),
    }
    pyogrio.write_dataframe(table, path, **options)


def _metadata(film_type: FilmType, cogs: Sequence[Cog]) -> dict[str, str]:
    """Layer metadata of the index. The mosaic has the frames' median resolution."""
    spec = FILM_TYPES[film_type]
    return {
        # Exactly the resolution of one frame, so that its pixels align with the mosaic's.
        "RESX": repr(median_low(cog.transform[0] for cog in cogs)),
        "RESY": repr(median_low(-cog.transform[4] for cog in cogs)),
        "BAND_COUNT": str(spec.bands),
        "DATA_TYPE": "Byte",
        "COLOR_INTERPRETATION": ",".join(spec.color_interpretation),
        "MASK_BAND": "YES",
        "SORT_FIELD": "oid",
        "BLOCKXSIZE": "512",
        "BLOCKYSIZE": "512",
        **{f"OVERVIEW_{number}_FACTOR": str(factor) for number, factor in enumerate(_OVERVIEW_FACTORS)},
    }
