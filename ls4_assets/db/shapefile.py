"""The tile index as a shapefile with .prj and .cpg, and as a zip of all files for download.

Format: ESRI Shapefile Technical Description (1998). Field names have at most 10 characters, values at most 254.
"""

import zipfile
from pathlib import Path

from sqlalchemy import Connection, LargeBinary, func, select

from ls4_assets.db.schema import WEB_MERCATOR, tile_index
from ls4_assets.domain.names import SHAPEFILE_SUFFIXES, Collection

# The legacy columns, which are public. The other columns of the tile index are internal.
COLUMNS = ("location", "src_srs", "date", "roll", "frame_num", "dl_orig", "dl_georef", "dl_index", "band", "acquired")


def write_shapefile(connection: Connection, collection: Collection, folder: Path) -> dict[str, Path]:
    """Write the files to `folder` in EPSG:3857. Returns path by suffix, the zip (`_idx.zip`) last."""
    # Imported here, because loading the Dagster definitions must not load these.
    import geopandas
    import pandas

    table = tile_index(collection)
    attributes = (table.c.oid, *(table.c[name] for name in COLUMNS))
    # Plain WKB, read at once: for 10,000 frames geopandas.read_postgis takes half as long again.
    query = select(*attributes, func.ST_AsBinary(table.c.geom, type_=LargeBinary).label("geom")).order_by(table.c.oid)
    rows = pandas.read_sql(query, connection)
    footprints = geopandas.GeoSeries.from_wkb(rows.pop("geom"), crs=f"EPSG:{WEB_MERCATOR}")
    frames = geopandas.GeoDataFrame(rows, geometry=footprints)
    frames["acquired"] = frames["acquired"].astype("string")
    frames.to_file(folder / f"{collection.name}.shp", driver="ESRI Shapefile", engine="pyogrio", encoding="UTF-8")
    files = {suffix: folder / f"{collection.name}{suffix}" for suffix in SHAPEFILE_SUFFIXES}
    archive = folder / f"{collection.name}_idx.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in files.values():
            zipped.write(path, path.name)
    return files | {"_idx.zip": archive}
