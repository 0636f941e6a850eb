"""What changed in georef/, decided by pure functions over what is listed and what is known."""

from collections import defaultdict
from collections.abc import Collection as Some
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from ls4_assets.db.schema import SourceState
from ls4_assets.domain.names import Frame, Shards, is_tif, parse_georef_key
from ls4_assets.errors import InvalidNameError
from ls4_assets.ingest.listing import Dropped


@dataclass(frozen=True)
class Known:
    """What the source table holds of one key. Times are aware UTC; `missing_since` is when it was first missing in a listing."""

    version: str
    state: SourceState
    changed_at: datetime
    reason: str | None = None
    missing_since: datetime | None = None


@dataclass(frozen=True)
class Change:
    """A row of the source table to write. `frame` is None when the name was rejected."""

    dropped: Dropped
    state: SourceState
    frame: Frame | None = None
    reason: str | None = None


@dataclass
class Changes:
    """`missing` are keys that a complete listing does not show for the first time, `found` those that were missing and are
    back, `gone` those that stayed away: staff who replace a file may delete it first."""

    rows: list[Change] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rules:
    """`settle`: how long a version must stay the same before it is read, and a file away before it is gone; zero on S3.
    `settle_empty` instead while it has no bytes. `tables` maps table names to the collection that has each."""

    shards: Shards
    settle: timedelta
    settle_empty: timedelta
    tables: Mapping[str, str]


def plan_changes(listed: Sequence[Dropped], known: Mapping[str, Known], now: datetime, rules: Rules) -> Changes:
    """Compare a complete listing of some keys with what is known of them."""
    changes = Changes()
    doubles = _doubles(listed, known)
    tables = dict(rules.tables)
    for dropped in listed:
        before = known.get(dropped.key)
        try:
            frame = _frame_of(dropped, doubles, rules.shards, tables)
        except InvalidNameError as rejection:
            if before is None or (before.version, before.reason) != (dropped.version, str(rejection)):
                changes.rows.append(Change(dropped, SourceState.REJECTED, reason=str(rejection)))
            elif before.missing_since is not None:
                changes.found.append(dropped.key)
            continue
        tables[frame.collection.table] = frame.collection.name
        state = _next_state(dropped, before, now, rules.settle_empty if dropped.empty else rules.settle)
        if state is not None:
            changes.rows.append(Change(dropped, state, frame))
        elif before is not None and before.missing_since is not None:
            changes.found.append(dropped.key)
    _note_absent(changes, {dropped.key for dropped in listed}, known, now, rules.settle)
    return changes


def _note_absent(changes: Changes, present: set[str], known: Mapping[str, Known], now: datetime, settle: timedelta) -> None:
    for key, row in known.items():
        if key in present or row.state == SourceState.DELETED:
            continue
        if row.missing_since is None:
            changes.missing.append(key)
        elif now - row.missing_since >= settle:
            changes.gone.append(key)


def _next_state(dropped: Dropped, before: Known | None, now: datetime, settle: timedelta) -> SourceState | None:
    """None: nothing to do. A rejection by name that no longer holds (the list of shards grew) starts like a new file."""
    fresh = SourceState.SETTLING if settle else SourceState.QUEUED
    if before is None or before.version != dropped.version:
        return fresh
    if before.state == SourceState.SETTLING:
        return SourceState.QUEUED if now - before.changed_at >= settle else None
    if before.state in (SourceState.DELETED, SourceState.REJECTED):
        return fresh
    return None


def _frame_of(dropped: Dropped, doubles: Mapping[str, str], shards: Shards, tables: Mapping[str, str]) -> Frame:
    if not is_tif(dropped.key):
        stem = PurePosixPath(dropped.key).stem
        raise InvalidNameError(f"{dropped.key}: only georeferenced tifs are taken; export it as {stem}.tif and drop that.")
    frame = parse_georef_key(dropped.key, shards)
    if first := doubles.get(dropped.key):
        raise InvalidNameError(
            f"{dropped.key}: {PurePosixPath(first).name} of the same name is there already; remove one of the two."
        )
    other = tables.get(frame.collection.table, frame.collection.name)
    if other != frame.collection.name:
        raise InvalidNameError(
            f"{dropped.key}: its collection differs from {other} by upper and lower case only; use that spelling."
        )
    return frame


def _doubles(listed: Sequence[Dropped], known: Mapping[str, Known]) -> dict[str, str]:
    """Key of each tif whose name another has already (x.tif and x.TIF make one product), with that other key."""
    same: dict[str, list[str]] = defaultdict(list)
    for dropped in listed:
        if is_tif(dropped.key):
            same[dropped.key.rpartition(".")[0]].append(dropped.key)
    return {
        key: first for keys in same.values() if len(keys) > 1 for first in [_first(keys, known)] for key in keys if key != first
    }


def _first(keys: Some[str], known: Mapping[str, Known]) -> str:
    """The one that is in the archive already stays; among strangers, the first in order."""
    settled_states = (SourceState.REJECTED, SourceState.DELETED)
    in_use = [key for key in keys if key in known and known[key].state not in settled_states]
    return min(in_use or keys)
