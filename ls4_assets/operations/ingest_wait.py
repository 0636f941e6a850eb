"""`ls4 ingest --wait`: follow the files of one ingest until they are on the map, or until it is clear that they will not be."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from ls4_assets.db.schema import PENDING_STATES, SourceState, collection, frame, source
from ls4_assets.domain.names import Collection
from ls4_assets.operations.health.conditions import judge
from ls4_assets.operations.health.facts import collect_facts
from ls4_assets.operations.health.model import Severity
from ls4_assets.settings import Settings
from resources.open import open_database

_POLL_SECONDS = 1.0
_HEALTH_SECONDS = 15.0
# The platform repairs itself from a restart within this time.
_PATIENCE = 3
# Rebuilds requested without success.
_FAILING_ATTEMPTS = 2


@dataclass(frozen=True)
class WaitReport:
    """How it ended. `failed`: a sentence for each file that is rejected or failed; `error`: why the others are not on the map."""

    on_map: int
    failed: Sequence[str]
    error: str = ""


def read_clock(settings: Settings) -> datetime:
    """The time of the database, which the rows of `source` have."""
    with open_database(settings.database_url.get_secret_value()).connect() as connection:
        now: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return now


def wait_for_map(
    settings: Settings,
    target: Collection,
    keys: Sequence[str],
    since: datetime,
    uploaded: Sequence[str],
    on_progress: Callable[[int, int], None],
) -> WaitReport:
    """Wait for the tifs `keys`; of those `uploaded` only versions that were found after `since` count.

    `on_progress` gets the number of tifs that are finished, and of all.
    """
    engine, bad_checks, checked = open_database(settings.database_url.get_secret_value()), 0, time.monotonic()
    while True:
        with engine.connect() as connection:
            states = _load_states(connection, keys, since, frozenset(uploaded))
            waiting = len(keys) - len(states)
            on_progress(len(states), len(keys))
            done = [key for key, (state, _) in states.items() if state == SourceState.DONE]
            failed = [f"{key}: {reason}" for key, (state, reason) in states.items() if state != SourceState.DONE]
            on_map, is_failing = _count_on_map(connection, target, done)
        if not waiting and (on_map == len(done) or is_failing):
            error = "The index or the map cannot be rebuilt; `ls4 status` says why." if is_failing and on_map < len(done) else ""
            return WaitReport(on_map, failed, error)
        if time.monotonic() - checked > _HEALTH_SECONDS:
            health, checked = judge(collect_facts(settings)), time.monotonic()
            bad_checks = bad_checks + 1 if health.severity == Severity.CRITICAL else 0
            if bad_checks >= _PATIENCE:
                return WaitReport(on_map, failed, health.summary)
        time.sleep(_POLL_SECONDS)


def _load_states(
    connection: Connection, keys: Sequence[str], since: datetime, uploaded: frozenset[str]
) -> dict[str, tuple[SourceState, str]]:
    """State and reason of the tifs that are finished."""
    columns = source.c
    query = select(columns.key, columns.state, columns.reason, columns.changed_at).where(columns.key.in_(keys))
    return {
        row.key: (SourceState(row.state), row.reason or "")
        for row in connection.execute(query)
        if row.state not in PENDING_STATES and (row.key not in uploaded or row.changed_at >= since)
    }


def _count_on_map(connection: Connection, target: Collection, keys: Sequence[str]) -> tuple[int, bool]:
    """The number of these tifs that the published map has in their last version, and whether its rebuild fails."""
    columns = collection.c
    row = connection.execute(select(collection).where(columns.name == target.name)).first()
    if not row:
        return 0, False
    is_indexed = (frame.c.source_key.in_(keys), frame.c.revision == frame.c.indexed_revision, ~frame.c.deleted)
    is_published = row.published_at is not None and row.map_revision == row.index_revision
    count = connection.scalar(select(func.count()).where(*is_indexed)) or 0 if is_published else 0
    return count, row.attempts >= _FAILING_ATTEMPTS
