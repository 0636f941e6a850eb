"""The tile index as files: a shapefile with its .prj and .cpg, and all of it zipped for download.

Format: ESRI Shapefile Technical Description (1998); field names have at most ten letters, values at most 254.
"""

import zipfile
from pathlib import Path

from sqlalchemy import Connection, LargeBinary, func, select

from ls4_assets.db.schema import WEB_MERCATOR, tile_index
from ls4_assets.domain.names import SHAPEFILE_SUFFIXES, Collection

# What the public reads; where the map server finds a file and what it was made with is ours alone.
COLUMNS = ("location", "src_srs", "date", "roll", "frame_num", "dl_orig", "dl_georef", "dl_index", "band", "acquired")


def write_shapefile(connection: Connection, of: Collection, folder: Path) -> dict[str, Path]:
    """Write the files below `folder`; returns path by suffix, the zip (`_idx.zip`) last."""
    # Here and not above: what loads the definitions need not load these.
    import geopandas
    import pandas

    table = tile_index(of)
    attributes = (table.c.oid, *(table.c[name] for name in COLUMNS))
    # Geometries as plain WKB, read in one go: with 10,000 frames geopandas.read_postgis takes half as long again.
    chosen = select(*attributes, func.ST_AsBinary(table.c.geom, type_=LargeBinary).label("geom")).order_by(table.c.oid)
    rows = pandas.read_sql(chosen, connection)
    footprints = geopandas.GeoSeries.from_wkb(rows.pop("geom"), crs=f"EPSG:{WEB_MERCATOR}")
    frames = geopandas.GeoDataFrame(rows, geometry=footprints)
    frames["acquired"] = frames["acquired"].astype("string")
    frames.to_file(folder / f"{of.name}.shp", driver="ESRI Shapefile", engine="pyogrio", encoding="UTF-8")
    files = {suffix: folder / f"{of.name}{suffix}" for suffix in SHAPEFILE_SUFFIXES}
    archive = folder / f"{of.name}_idx.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path in files.values():
            zipped.write(path, path.name)
    return files | {"_idx.zip": archive}
