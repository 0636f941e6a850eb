"""The stacking order of a lost tile index, read back from its published shapefile: which frame lies on which is a public fact.

The rows put here make the map right from the first moment; the next rebuild completes them, and keeps their order.
"""

from pathlib import Path
from typing import Any

import pyogrio
from pyogrio.errors import DataSourceError
from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.db.chunks import chunks
from ls4_assets.db.schema import WEB_MERCATOR, frame, tile_index
from ls4_assets.db.tile_index import is_ours, location_of
from ls4_assets.domain.names import FILM_TYPES, Collection
from ls4_assets.errors import NotFoundError
from resources.storage import Storage

_TEXTS = ("date", "roll", "frame_num", "dl_orig", "dl_georef", "dl_index")


def restore_table(connection: Connection, of: Collection, storage: Storage, folder: Path) -> int | None:
    """Make the table with the frames that the shapefile shows and that are known again. Returns how many; None: there is none
    to read, and the order will be that of the names. Nothing is done where there is a table."""
    if is_ours(connection, of) is not None:
        return 0
    published = _read(storage, of, folder)
    if published is None:
        return None
    table = tile_index(of)
    table.create(connection)
    served = select(frame.c.served_key, frame.c.footprint).where(frame.c.collection == of.name, frame.c.footprint.is_not(None))
    known = {row.served_key: row.footprint for row in connection.execute(served)}
    rows = [_row(storage, key, row, known[key]) for key, row in published if key in known]
    for some in chunks(rows, 500):
        connection.execute(insert(table).values(some))
    return len(rows)


def _read(storage: Storage, of: Collection, folder: Path) -> list[tuple[str, dict[str, Any]]] | None:
    """Key of the COG and attributes of each row, the lowest first."""
    path = folder / f"{of.name}.zip"
    for film_type in FILM_TYPES:
        try:
            storage.download(of.tile_index_key(film_type, "_idx.zip"), path)
            found = pyogrio.read_dataframe(f"/vsizip/{path}", read_geometry=False)
        except (NotFoundError, DataSourceError):
            continue
        finally:
            path.unlink(missing_ok=True)
        if not {"oid", "location"} <= set(found.columns):
            continue
        texts = [name for name in _TEXTS if name in found.columns]
        rows = found.sort_values("oid").drop_duplicates("location").to_dict("records")
        return [(str(row["location"]).split("/", 3)[3], {name: row[name] or None for name in texts}) for row in rows]
    return None


def _row(storage: Storage, key: str, attributes: dict[str, Any], footprint: object) -> dict[str, Any]:
    return {
        **dict.fromkeys(_TEXTS),
        **attributes,
        "location": location_of(storage.bucket, key),
        "src_srs": f"EPSG:{WEB_MERCATOR}",
        "served_location": storage.gdal_path(key),
        "band": key.partition("/")[0],
        "source_version": "",
        "profile_hash": "restored",
        "geom": footprint,
    }
