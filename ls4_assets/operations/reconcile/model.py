"""The types of a comparison: the observed and the recorded state of one collection, and the actions that follow from them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ls4_assets.db.schema import SourceState


class ActionKind(StrEnum):
    """What has to be done. `MANUAL` kinds are left to people."""

    RESCAN = "rescan"
    REQUEUE = "requeue"
    WITHDRAW = "withdraw"
    RELINK = "relink"
    REPUBLISH = "republish"
    INDEX = "index"
    FILES = "files"
    MOSAIC = "mosaic"
    MAP = "map"
    REMOVE = "remove"
    DROP = "drop"
    ADD_PARTITION = "add_partition"
    REMOVE_PARTITION = "remove_partition"
    RECORD = "record"
    UNKNOWN = "unknown"
    FOREIGN = "foreign"


MANUAL = frozenset({ActionKind.UNKNOWN, ActionKind.FOREIGN})
# These remove something that cannot simply be put back.
DESTRUCTIVE = frozenset({ActionKind.WITHDRAW, ActionKind.REMOVE, ActionKind.DROP, ActionKind.REMOVE_PARTITION})


@dataclass(frozen=True)
class Action:
    """One difference and its fix.

    `target`: a key, a table, a partition or the id of a frame. `reason`: a predicate about the target. `frame`: id of the frame
    that loses something, for the deletion guard. `value`: file name of the raw scan, for RELINK.
    """

    kind: ActionKind
    target: str
    reason: str
    frame: str = ""
    value: str | None = None


@dataclass
class ObservedState:
    """What complete listings show of one collection.

    `tifs`: keys under georef/. `scans`: file name of each raw scan, by film type and stem. `cogs`: fingerprint of each COG by
    key, public ones and those under derived/. `frame_files`: frame id by key of their other products.
    `index_files`: size in bytes by key. `mosaics`: time by key. `documents`: problems of each map document by key.
    `recent`: keys that are too new to count as orphans.
    """

    tifs: set[str] = field(default_factory=set)
    scans: dict[tuple[str, str], str] = field(default_factory=dict)
    cogs: dict[str, str] = field(default_factory=dict)
    frame_files: dict[str, str] = field(default_factory=dict)
    index_files: dict[str, int] = field(default_factory=dict)
    mosaics: dict[str, datetime] = field(default_factory=dict)
    documents: dict[str, list[str]] = field(default_factory=dict)
    recent: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class RecordedFrame:
    """A row of the frame table.

    `fingerprint`: of the COG when it was written. `is_copy_pending`: the public COG is still to be copied. `is_adopted`: ls4 did
    not make the COG. `lacks_source`: there is no georef tif to make it from.
    """

    served_key: str | None
    fingerprint: str
    partition: str
    scan_file: str | None = None
    deleted: bool = False
    is_copy_pending: bool = False
    is_adopted: bool = False
    lacks_source: bool = False


@dataclass(frozen=True)
class RecordedSource:
    """A row of the source table. `partition`: None when Dagster has none left. `is_missing`: its deletion is noted or held."""

    state: SourceState
    frame: str | None
    partition: str | None
    is_missing: bool = False


@dataclass(frozen=True)
class RecordedCollection:
    """The collection's row. `is_up_to_date`: no rebuild is pending that will rewrite table, files and map anyway.

    `document_keys`: of the map, from the publishers that published it.
    """

    frame_count: int
    film_types: tuple[str, ...]
    is_published: bool
    is_up_to_date: bool
    is_withdrawn: bool = False
    document_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordedTable:
    """The tile index compared with the frames: rows in all, and those missing, extra or with another COG's location."""

    is_owned: bool
    rows: int = 0
    missing: int = 0
    extra: int = 0
    mislocated: int = 0


@dataclass
class RecordedState:
    """What Postgres and Dagster record of one collection.

    `served`: keys of the COGs that the map reads. `served_mosaic`: key of the overview mosaic that the map reads. `mosaics`: keys
    of the mosaics on record. `partitions`: of frames, in Dagster.
    """

    collection: RecordedCollection | None = None
    frames: dict[str, RecordedFrame] = field(default_factory=dict)
    sources: dict[str, RecordedSource] = field(default_factory=dict)
    table: RecordedTable | None = None
    served: set[str] = field(default_factory=set)
    served_mosaic: str | None = None
    mosaics: set[str] = field(default_factory=set)
    partitions: set[str] = field(default_factory=set)
    has_collection_partition: bool = False


def count_by_kind(actions: Iterable[Action]) -> dict[ActionKind, int]:
    """Return the number of actions of each kind, in the order of `ActionKind`."""
    counts = Counter(action.kind for action in actions)
    return {kind: counts[kind] for kind in ActionKind if counts[kind]}
