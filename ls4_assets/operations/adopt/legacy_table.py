"""Take over the tile index that a collection has already: that of lambda-s4, made by pandas and often owned by another role.

Its rows move into a new table of the same name, owned by ls4, in one transaction: readers see either the old table or the new
one. Every frame on the map stays there until ls4 has a better row for it. Roles keep their read access.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg2 import errors
from sqlalchemy import Connection, MetaData, column, func, insert, inspect, select, table, text
from sqlalchemy.exc import DBAPIError

from ls4_assets.db.schema import PUBLIC, SCHEMA, WEB_MERCATOR, tile_index
from ls4_assets.db.tile_index import LEGACY, cog_location, is_owned_by_ls4
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.names import Collection
from ls4_assets.errors import ConfigurationError
from resources.storage import Storage

_TEXT_COLUMNS = ("src_srs", "date", "roll", "frame_num", "dl_orig", "dl_georef", "dl_index")
_LOCATION = re.compile(r"/vsi[a-z0-9_]+/[^/]+/(?P<key>.+)")
# While this transaction waits for a lock, map requests queue behind it.
_LOCK_TIMEOUT = "5s"
_ROW_CHUNK = 500


@dataclass(frozen=True)
class LegacyRow:
    """One row of a legacy index. `key`: of its COG. `geom`: EWKT in EPSG:3857. `is_box`: the footprint is only a bounding box."""

    key: str
    texts: Mapping[str, str | None]
    geom: str
    is_box: bool


def read_legacy_rows(connection: Connection, collection: Collection) -> list[LegacyRow] | None:
    """Return the rows of the collection's table in stacking order; None when ls4 owns the table or there is none.

    Raises ConfigurationError, with the administrator's next step, when the table cannot be read.
    """
    if is_owned_by_ls4(connection, collection) in (None, True):
        return None
    with _explained_errors(collection):
        columns = {info["name"]: info for info in inspect(connection).get_columns(collection.table, schema=PUBLIC)}
        geometry = next((name for name, info in columns.items() if type(info["type"]).__name__ == "Geometry"), None)
        if geometry is None or "location" not in columns:
            reason = "it lacks a column `location` or a geometry"
            raise ConfigurationError(
                f"The table {PUBLIC}.{collection.table} is not a tile index ({reason}); rename it, and adopt again."
            )
        return _read_rows(connection, collection, geometry, set(columns))


def replace_legacy_table(connection: Connection, collection: Collection, storage: Storage, rows: list[LegacyRow]) -> None:
    """Replace the collection's table with one of ls4 that has these rows, inside the caller's transaction.

    Raises ConfigurationError, with the administrator's next step, when the old table cannot be dropped.
    """
    # Fill the table in ls4's own schema first: its name and those of its indexes are free there.
    new_table = tile_index(collection).to_metadata(MetaData(), schema=SCHEMA)
    new_table.create(connection)
    for chunk in chunks(rows, _ROW_CHUNK):
        connection.execute(insert(new_table).values([_index_row(row, storage) for row in chunk]))
    readers = _readers(connection, collection)
    with _explained_errors(collection):
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
        tile_index(collection).drop(connection)
    quote = connection.dialect.identifier_preparer.quote
    connection.execute(text(f"ALTER TABLE {SCHEMA}.{quote(collection.table)} SET SCHEMA {PUBLIC}"))
    for reader in sorted({*readers, "mapserver"}):
        role = "PUBLIC" if reader == "" else quote(reader)
        connection.execute(text(f"GRANT SELECT ON {PUBLIC}.{quote(collection.table)} TO {role}"))


def _read_rows(connection: Connection, collection: Collection, geometry: str, present: set[str]) -> list[LegacyRow]:
    texts = [name for name in _TEXT_COLUMNS if name in present]
    old = table(collection.table, *(column(name) for name in {*present}), schema=PUBLIC)
    footprint: Any = old.c[geometry]
    geom = func.ST_AsEWKT(func.ST_Multi(func.ST_Force2D(_to_web_mercator(footprint)))).label("geom")
    is_box = func.ST_Equals(footprint, func.ST_Envelope(footprint)).label("is_box")
    query = select(old.c.location, *(old.c[name] for name in texts), geom, is_box)
    ordered = query.where(footprint.is_not(None)).order_by(*([old.c.oid] if "oid" in present else []), old.c.location)
    rows: dict[str, LegacyRow] = {}
    for row in connection.execute(ordered):
        if match := _LOCATION.fullmatch(row.location or ""):
            values = {name: None if getattr(row, name) is None else str(getattr(row, name)) for name in texts}
            rows.setdefault(match["key"], LegacyRow(match["key"], values, row.geom, row.is_box))
    return list(rows.values())


def _to_web_mercator(footprint: Any) -> Any:
    """Transform to EPSG:3857. Tables made by pandas often declare no coordinate system; theirs was always EPSG:3857."""
    declared = func.ST_SetSRID(footprint, func.coalesce(func.nullif(func.ST_SRID(footprint), 0), WEB_MERCATOR))
    return func.ST_Transform(declared, WEB_MERCATOR)


def _index_row(row: LegacyRow, storage: Storage) -> dict[str, Any]:
    return {
        **dict.fromkeys(_TEXT_COLUMNS),
        **row.texts,
        "src_srs": row.texts.get("src_srs") or f"EPSG:{WEB_MERCATOR}",
        "location": cog_location(storage.bucket, row.key),
        "served_location": storage.gdal_path(row.key),
        "band": row.key.partition("/")[0],
        "source_version": "",
        "profile_hash": LEGACY,
        "geom": row.geom,
    }


def _readers(connection: Connection, collection: Collection) -> list[str]:
    """Return the roles that may read the table, its owner included; "" means PUBLIC."""
    granted = """
        SELECT coalesce(pg_roles.rolname, '') FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) AS acl
        LEFT JOIN pg_roles ON pg_roles.oid = acl.grantee
        WHERE pg_class.oid = to_regclass(:name) AND privilege_type = 'SELECT'
    """
    return [str(role) for role in connection.scalars(text(granted), {"name": f"{PUBLIC}.{collection.table}"})]


@contextmanager
def _explained_errors(collection: Collection) -> Iterator[None]:
    """Turn the database errors that an administrator can fix into ConfigurationError."""
    name = f"{PUBLIC}.{collection.table}"
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        if isinstance(error.orig, errors.InsufficientPrivilege):
            advice = f"as a superuser run ALTER TABLE {name} OWNER TO ls4"
        elif isinstance(error.orig, errors.DependentObjectsStillExist):
            advice = "drop what depends on it (a view?) and create it again afterwards"
        elif isinstance(error.orig, errors.LockNotAvailable):
            advice = "wait until the query that holds it has finished"
        else:
            raise
        raise ConfigurationError(f"The index table {name} cannot be taken over ({reason}); {advice}, and adopt again.") from None
