"""The tile index that a collection has already, made by another hand: lambda-s4's (pandas), often another role's.

Its rows move into a table of ours under the same name, in one transaction: who reads it sees the old one or the new one, and
every frame that was on the map stays there until ls4 has a better row for it. Whoever could read the old one can read the new.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg2 import errors
from sqlalchemy import Connection, MetaData, column, func, insert, inspect, select, table, text
from sqlalchemy.exc import DBAPIError

from ls4_assets.db.chunks import chunks
from ls4_assets.db.schema import PUBLIC, SCHEMA, WEB_MERCATOR, tile_index
from ls4_assets.db.tile_index import LEGACY, is_ours, location_of
from ls4_assets.domain.names import Collection
from ls4_assets.errors import ConfigurationError
from resources.storage import Storage

_TEXTS = ("src_srs", "date", "roll", "frame_num", "dl_orig", "dl_georef", "dl_index")
_LOCATION = re.compile(r"/vsi[a-z0-9_]+/[^/]+/(?P<key>.+)")
# Map users wait behind us while we wait behind others.
_LOCK_TIMEOUT = "5s"


@dataclass(frozen=True)
class LegacyRow:
    """One row of a foreign index. `key`: of the COG it shows; `boxed`: its footprint is a mere bounding box."""

    key: str
    texts: Mapping[str, str | None]
    geom: str
    boxed: bool


def legacy_rows(connection: Connection, of: Collection) -> list[LegacyRow] | None:
    """Rows of the collection's table when that is not of our making, in stacking order; None when it is ours or not there.

    Raises ConfigurationError, with what the administrator has to do, when it cannot be read.
    """
    if is_ours(connection, of) in (None, True):
        return None
    with _explained(of):
        found = {one["name"]: one for one in inspect(connection).get_columns(of.table, schema=PUBLIC)}
        geometry = next((name for name, one in found.items() if type(one["type"]).__name__ == "Geometry"), None)
        if geometry is None or "location" not in found:
            why = "it has no column location, or no geometry"
            raise ConfigurationError(f"The table {PUBLIC}.{of.table} is no tile index ({why}); rename it, and adopt again.")
        return _read(connection, of, geometry, set(found))


def take_over(connection: Connection, of: Collection, storage: Storage, rows: list[LegacyRow]) -> None:
    """Put a table of ours with these rows in place of the one that is there, inside the caller's transaction.

    Raises ConfigurationError, with what the administrator has to do, when that one cannot be removed.
    """
    # In our own schema until it is full: its name, and those of its indexes, are free there.
    new = tile_index(of).to_metadata(MetaData(), schema=SCHEMA)
    new.create(connection)
    for some in chunks(rows, 500):
        connection.execute(insert(new).values([_row(of, row, storage) for row in some]))
    readers = _readers(connection, of)
    with _explained(of):
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
        tile_index(of).drop(connection)
    quote = connection.dialect.identifier_preparer.quote
    connection.execute(text(f"ALTER TABLE {SCHEMA}.{quote(of.table)} SET SCHEMA {PUBLIC}"))
    for reader in sorted({*readers, "mapserver"}):
        who = "PUBLIC" if reader == "" else quote(reader)
        connection.execute(text(f"GRANT SELECT ON {PUBLIC}.{quote(of.table)} TO {who}"))


def _read(connection: Connection, of: Collection, geometry: str, present: set[str]) -> list[LegacyRow]:
    texts = [name for name in _TEXTS if name in present]
    old = table(of.table, *(column(name) for name in {*present}), schema=PUBLIC)
    drawn: Any = old.c[geometry]
    in_place = func.ST_Multi(func.ST_Force2D(_web_mercator(drawn)))
    boxed = func.ST_Equals(drawn, func.ST_Envelope(drawn))
    query = select(old.c.location, *(old.c[name] for name in texts), func.ST_AsEWKT(in_place).label("geom"), boxed.label("boxed"))
    ordered = query.where(drawn.is_not(None)).order_by(*([old.c.oid] if "oid" in present else []), old.c.location)
    rows: dict[str, LegacyRow] = {}
    for row in connection.execute(ordered):
        if match := _LOCATION.fullmatch(row.location or ""):
            values = {name: None if getattr(row, name) is None else str(getattr(row, name)) for name in texts}
            rows.setdefault(match["key"], LegacyRow(match["key"], values, row.geom, row.boxed))
    return list(rows.values())


def _web_mercator(drawn: Any) -> Any:
    """Tables made by pandas often tell no coordinate system: theirs was always EPSG:3857."""
    named = func.ST_SetSRID(drawn, func.coalesce(func.nullif(func.ST_SRID(drawn), 0), WEB_MERCATOR))
    return func.ST_Transform(named, WEB_MERCATOR)


def _row(of: Collection, row: LegacyRow, storage: Storage) -> dict[str, Any]:
    return {
        **dict.fromkeys(_TEXTS),
        **row.texts,
        "src_srs": row.texts.get("src_srs") or f"EPSG:{WEB_MERCATOR}",
        "location": location_of(storage.bucket, row.key),
        "served_location": storage.gdal_path(row.key),
        "band": row.key.partition("/")[0],
        "source_version": "",
        "profile_hash": LEGACY,
        "geom": row.geom,
    }


def _readers(connection: Connection, of: Collection) -> list[str]:
    """Roles that may read the table, its owner among them; "" stands for everybody."""
    granted = """
        SELECT coalesce(pg_roles.rolname, '') FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) AS acl
        LEFT JOIN pg_roles ON pg_roles.oid = acl.grantee
        WHERE pg_class.oid = to_regclass(:name) AND privilege_type = 'SELECT'
    """
    return [str(role) for role in connection.scalars(text(granted), {"name": f"{PUBLIC}.{of.table}"})]


@contextmanager
def _explained(of: Collection) -> Iterator[None]:
    name = f"{PUBLIC}.{of.table}"
    try:
        yield
    except DBAPIError as error:
        what = str(error.orig).strip().splitlines()[0]
        if isinstance(error.orig, errors.InsufficientPrivilege):
            advice = f"as a superuser run ALTER TABLE {name} OWNER TO ls4"
        elif isinstance(error.orig, errors.DependentObjectsStillExist):
            advice = "drop what depends on it (a view?) and make it anew afterwards"
        elif isinstance(error.orig, errors.LockNotAvailable):
            advice = "wait until whoever uses it for so long has finished"
        else:
            raise
        raise ConfigurationError(f"The index table {name} cannot be taken over ({what}); {advice}, and adopt again.") from None
