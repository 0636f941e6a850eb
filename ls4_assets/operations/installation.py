"""The parts of the installation that `ls4 doctor` tries: storage and maps by using them, the services by their health.

The database is not among them: without it, every command ends with one sentence. The grids of PROJ are in `doctor.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
from sqlalchemy import Connection, select

from ls4_assets.db.schema import collection
from ls4_assets.operations.health.conditions import judge
from ls4_assets.operations.health.facts import collect_facts
from ls4_assets.operations.health.model import Severity
from ls4_assets.settings import Settings
from resources.open import open_storage

# Scans skip what is not below georef/ or scanned/.
_PROBE_KEY = "derived/ls4-doctor.txt"
_MAP_SECONDS = 10.0


@dataclass(frozen=True)
class PartCheck:
    """One part. `sentence` says what was found and, of a part that does not work, what to do next."""

    part: str
    is_right: bool
    sentence: str


def check_parts(settings: Settings, connection: Connection) -> tuple[PartCheck, ...]:
    """Try each part. It never raises because one does not work."""
    database = PartCheck("database", True, "it answers.")
    return database, _check_storage(settings), _check_maps(settings, connection), *_check_services(settings)


def format_parts(checks: tuple[PartCheck, ...]) -> Iterator[str]:
    """A line for each part."""
    for check in checks:
        yield f"{'OK' if check.is_right else 'ERROR'}: {check.part}: {check.sentence}"


def _check_storage(settings: Settings) -> PartCheck:
    part = f"storage {settings.storage}"
    try:
        storage = open_storage(settings)
        next(iter(storage.list_level("")), None)
        storage.put(_PROBE_KEY, b"ls4 doctor\n")
        is_same = storage.read(_PROBE_KEY) == b"ls4 doctor\n"
        storage.delete(_PROBE_KEY)
    except Exception as error:  # noqa: BLE001  # whatever a storage raises is the finding
        reason = " ".join(str(error).split())
        return PartCheck(
            part, False, f"it cannot be listed, read and written ({reason}). Correct its permissions or LS4_STORAGE."
        )
    if not is_same:
        return PartCheck(part, False, "it returned other bytes than were written. Check the storage and its caches.")
    return PartCheck(part, True, "it can be listed, read and written.")


def _check_maps(settings: Settings, connection: Connection) -> PartCheck:
    """Whether MapServer describes one of the maps; without any, whether the web front end answers."""
    address = settings.map_internal_url or settings.map_url
    table = connection.scalar(select(collection.c.table_name).where(collection.c.published_at.is_not(None)).limit(1))
    query = f"/?map=/mapfiles/{table}.map&SERVICE=WMS&REQUEST=GetCapabilities" if table else "/"
    advice = "Read the logs of nginx and mapserv, and restart the map server; or correct LS4_MAP_URL."
    try:
        response = httpx.get(address + query, timeout=_MAP_SECONDS, trust_env=False)
    except httpx.HTTPError as error:
        return PartCheck("maps", False, f"{address} does not answer ({error or type(error).__name__}). {advice}")
    if response.status_code != 200 or (table and "WMS_Capabilities" not in response.text):
        return PartCheck("maps", False, f"{address}{query} does not return a map (status {response.status_code}). {advice}")
    return PartCheck("maps", True, f"{address} answers{f' for {table}' if table else ', and has no map yet'}.")


def _check_services(settings: Settings) -> Iterator[PartCheck]:
    """Daemon, code server, sensors and queue: what is critical of the platform's health. Warnings are in `ls4 status`."""
    health = judge(collect_facts(settings))
    critical = [condition for condition in health.conditions if condition.severity == Severity.CRITICAL]
    for condition in critical:
        yield PartCheck("services", False, f"{condition.sentence} {condition.advice}")
    if not critical:
        yield PartCheck("services", True, "daemon, code server and sensors run.")
