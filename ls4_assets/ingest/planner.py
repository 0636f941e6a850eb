"""What changed in georef/: pure functions that compare a listing with the source table. `sources` writes the result."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from ls4_assets.db.schema import SourceState
from ls4_assets.domain.key_parser import parse_georef_key
from ls4_assets.domain.names import Frame, Naming
from ls4_assets.domain.printable import printable
from ls4_assets.domain.sidecars import is_tif
from ls4_assets.errors import InvalidNameError
from ls4_assets.ingest.arrivals import Arrivals, SourceSnapshot, dropped_again, next_arrivals
from ls4_assets.ingest.listing import DroppedFile

# Clocks of the database and of this machine may differ by less.
CLOCK_TOLERANCE = timedelta(minutes=1)
# A program that sets attributes before it writes on does so within less.
FINISHED_WAIT = timedelta(seconds=1)


@dataclass(frozen=True)
class SourceChange:
    """A row to write into the source table. `frame` is None when the name was rejected."""

    dropped: DroppedFile
    state: SourceState
    frame: Frame | None = None
    reason: str | None = None
    arrivals: Arrivals = field(default_factory=dict)


@dataclass
class SourceChanges:
    """Rows to write, and keys by what to do: `missing` for the first time, `returned` after that, `gone` for long enough.

    A missing file is not gone at once: staff who replace a file may delete it first.
    """

    rows: list[SourceChange] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rules:
    """`settle`: how long a version must not change before it is read, and a file be missing before it is gone; zero for
    a storage that lists only complete files.

    `settle_empty` applies instead while a file has no bytes. `tables` maps each table name to the collection that has it.
    """

    naming: Naming
    settle: timedelta
    settle_empty: timedelta
    tables: Mapping[str, str]


def plan_changes(
    listed: Sequence[DroppedFile], recorded: Mapping[str, SourceSnapshot], now: datetime, rules: Rules
) -> SourceChanges:
    """Compare a complete listing of some keys with the recorded rows of those keys."""
    changes = SourceChanges()
    duplicates = _find_duplicates(listed, recorded)
    tables = dict(rules.tables)
    for dropped in listed:
        before = recorded.get(dropped.key)
        try:
            frame = _parse_frame(dropped, duplicates, rules.naming, tables)
        except InvalidNameError as rejection:
            reason = printable(str(rejection))
            if before is None or (before.version, before.reason) != (dropped.version, reason):
                changes.rows.append(SourceChange(dropped, SourceState.REJECTED, None, reason, next_arrivals(dropped, before)))
            elif before.missing_since is not None:
                changes.returned.append(dropped.key)
            continue
        tables[frame.collection.table] = frame.collection.name
        state = _next_state(dropped, before, now, _settle_time(dropped, now, rules))
        if state is not None:
            changes.rows.append(SourceChange(dropped, state, frame, None, next_arrivals(dropped, before)))
        elif before is not None and before.missing_since is not None:
            changes.returned.append(dropped.key)
    _add_absent(changes, {dropped.key for dropped in listed}, recorded, now, rules.settle)
    return changes


def has_passed(since: datetime, wait: timedelta, now: datetime) -> bool:
    """Whether `wait` has passed since that time. A time in the future was recorded before the clock was set back."""
    return now - since >= wait or since - now > CLOCK_TOLERANCE


def _add_absent(
    changes: SourceChanges, present: set[str], recorded: Mapping[str, SourceSnapshot], now: datetime, settle: timedelta
) -> None:
    for key, row in recorded.items():
        if key in present or row.state == SourceState.DELETED:
            continue
        if row.missing_since is None:
            changes.missing.append(key)
        elif has_passed(row.missing_since, settle, now):
            changes.gone.append(key)


def _settle_time(dropped: DroppedFile, now: datetime, rules: Rules) -> timedelta:
    """How long this version must not change before it is read; zero for a file that is known to be finished."""
    if dropped.empty:
        return rules.settle_empty
    is_finished = dropped.finished_at is not None and now - dropped.finished_at >= FINISHED_WAIT
    return timedelta(0) if is_finished else rules.settle


def _next_state(dropped: DroppedFile, before: SourceSnapshot | None, now: datetime, settle: timedelta) -> SourceState | None:
    """The state to write; None: no change. A rejection that no longer applies (a shard was added) starts like a new file."""
    initial = SourceState.SETTLING if settle else SourceState.QUEUED
    if before is None or before.version != dropped.version:
        return initial
    if before.state == SourceState.SETTLING:
        return SourceState.QUEUED if not settle or has_passed(before.changed_at, settle, now) else None
    if before.state in (SourceState.DELETED, SourceState.REJECTED) or dropped_again(dropped, before):
        return initial
    return None


def _parse_frame(dropped: DroppedFile, duplicates: Mapping[str, str], naming: Naming, tables: Mapping[str, str]) -> Frame:
    """The frame of a file. Raises InvalidNameError, whose text is "<problem>; <what to do>.", as staff read it."""
    if irregular := dropped.irregular:
        name = "it" if irregular.key == dropped.key else PurePosixPath(irregular.key).name
        raise InvalidNameError(f"{dropped.key}: {irregular.defect.sentence(name)}")
    if not is_tif(dropped.key):
        stem = PurePosixPath(dropped.key).stem
        raise InvalidNameError(
            f"{dropped.key}: only georeferenced tifs are accepted; export it as {stem}.tif and drop that file."
        )
    frame = parse_georef_key(dropped.key, naming)
    if first := duplicates.get(dropped.key):
        raise InvalidNameError(
            f"{dropped.key}: {PurePosixPath(first).name} with the same name is already there; remove one of the two."
        )
    other = tables.get(frame.collection.table, frame.collection.name)
    if other != frame.collection.name:
        raise InvalidNameError(
            f"{dropped.key}: its collection differs from {other} only in upper and lower case; use that spelling."
        )
    return frame


def _find_duplicates(listed: Sequence[DroppedFile], recorded: Mapping[str, SourceSnapshot]) -> dict[str, str]:
    """Keys of tifs that make the same product as another (x.tif and x.TIF), each with the key of the one that is kept."""
    keys_by_path: dict[str, list[str]] = defaultdict(list)
    for dropped in listed:
        if is_tif(dropped.key):
            keys_by_path[dropped.key.rpartition(".")[0]].append(dropped.key)
    return {
        key: first
        for keys in keys_by_path.values()
        if len(keys) > 1
        for first in [_choose_first(keys, recorded)]
        for key in keys
        if key != first
    }


def _choose_first(keys: Sequence[str], recorded: Mapping[str, SourceSnapshot]) -> str:
    """The key that is in the archive already; among new ones, the first in order."""
    inactive_states = (SourceState.REJECTED, SourceState.DELETED)
    active = [key for key in keys if key in recorded and recorded[key].state not in inactive_states]
    return min(active or keys)
