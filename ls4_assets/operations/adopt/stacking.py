"""Restore the stacking order of a lost tile index from its published shapefile. Which frame covers which is public, so it stays.

The rows written here make the map correct at once. The next rebuild completes them and keeps their order.
"""

from pathlib import Path
from typing import Any

import pyogrio
from pyogrio.errors import DataSourceError
from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db.schema import WEB_MERCATOR, frame, tile_index
from ls4_assets.db.tile_index import cog_location, is_owned_by_ls4
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import Collection
from ls4_assets.errors import NotFoundError
from resources.storage import Storage

_TEXT_COLUMNS = ("date", "roll", "frame_num", "dl_orig", "dl_georef", "dl_index")
_ROW_CHUNK = 500


def restore_stacking_order(connection: Connection, collection: Collection, storage: Storage, folder: Path) -> int | None:
    """Create the index table with the frames that the shapefile has and the database knows. Return how many rows were written.

    None: there is no shapefile, and the frames will be stacked by name. An existing table stays as it is.
    """
    if is_owned_by_ls4(connection, collection) is not None:
        return 0
    published = _read_shapefile(storage, collection, folder)
    if published is None:
        return None
    table = tile_index(collection)
    table.create(connection)
    in_collection = (frame.c.collection == collection.name, frame.c.footprint.is_not(None))
    frames = connection.execute(select(frame.c.served_key, frame.c.footprint, frame.c.interior).where(*in_collection))
    geometries = {row.served_key: {"geom": row.footprint, "interior": row.interior} for row in frames}
    rows = [_index_row(storage, key, attributes) | geometries[key] for key, attributes in published if key in geometries]
    for chunk in chunks(rows, _ROW_CHUNK):
        connection.execute(insert(table).values(chunk))
    return len(rows)


def _read_shapefile(storage: Storage, collection: Collection, folder: Path) -> list[tuple[str, dict[str, Any]]] | None:
    """Return key of the COG and attributes of each row, from the bottom of the stack to the top."""
    path = folder / f"{collection.name}.zip"
    for film_type in FILM_TYPES:
        try:
            storage.download(collection.tile_index_key(film_type, "_idx.zip"), path)
            table = pyogrio.read_dataframe(f"/vsizip/{path}", read_geometry=False)
        except (NotFoundError, DataSourceError):
            continue
        finally:
            path.unlink(missing_ok=True)
        if not {"oid", "location"} <= set(table.columns):
            continue
        texts = [name for name in _TEXT_COLUMNS if name in table.columns]
        rows = table.sort_values("oid").drop_duplicates("location").to_dict("records")
        return [(str(row["location"]).split("/", 3)[3], {name: row[name] or None for name in texts}) for row in rows]
    return None


def _index_row(storage: Storage, key: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        **dict.fromkeys(_TEXT_COLUMNS),
        **attributes,
        "location": cog_location(storage.bucket, key),
        "src_srs": f"EPSG:{WEB_MERCATOR}",
        "served_location": storage.gdal_path(key),
        "band": key.partition("/")[0],
        "source_version": "",
        "profile_hash": "restored",
    }
