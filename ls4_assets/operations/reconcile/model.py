"""What a comparison is made of: what is listed and what is known of one collection, and the actions that follow."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ls4_assets.db.schema import SourceState

DOCUMENTS = (".map", ".tilejson", ".wmts")


class Kind(StrEnum):
    """What is to be done. The last two are for people: nothing is done about them."""

    LOOK = "look"
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
    UNKNOWN = "unknown"
    FOREIGN = "foreign"


FOR_PEOPLE = frozenset({Kind.UNKNOWN, Kind.FOREIGN})
# What takes something away that cannot simply be put back.
TAKING = frozenset({Kind.WITHDRAW, Kind.REMOVE, Kind.DROP, Kind.REMOVE_PARTITION})


@dataclass(frozen=True)
class Action:
    """`target`: a key, the id of a frame, a table or a partition. `why`: half a sentence. `frame`: what would go of which frame.
    `value`: of a RELINK, the scan's name."""

    kind: Kind
    target: str
    why: str
    frame: str = ""
    value: str | None = None


@dataclass
class Listed:
    """What a complete listing shows of one collection.

    tifs: keys under georef/; scans: real file name by band and stem; cogs: print of each COG by key, public ones and those
    under derived/; made: id of the frame by key of what else is made of frames; index_files: size by key; mosaics: time by key;
    documents: what is wrong with each that is there, by suffix; young: keys that came too lately to be called orphans.
    """

    tifs: set[str] = field(default_factory=set)
    scans: dict[tuple[str, str], str] = field(default_factory=dict)
    cogs: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)
    index_files: dict[str, int] = field(default_factory=dict)
    mosaics: dict[str, datetime] = field(default_factory=dict)
    documents: dict[str, list[str]] = field(default_factory=dict)
    young: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class KnownFrame:
    """A row of the frame table. `print`: of the COG as it was put; `follows`: the public COG is still to be copied;
    `adopted`: made by another hand; `alone`: without a georef tif that it could be made anew from."""

    served_key: str | None
    print: str
    partition: str
    scan_file: str | None = None
    deleted: bool = False
    follows: bool = False
    adopted: bool = False
    alone: bool = False


@dataclass(frozen=True)
class KnownSource:
    """A row of the source table. `partition`: None when none is left in Dagster; `away`: missing already, or held."""

    state: SourceState
    frame: str | None
    partition: str | None
    away: bool = False


@dataclass(frozen=True)
class KnownCollection:
    """The collection's own row. `settled`: no rebuild is due by which table, files and map will change anyway."""

    frames: int
    bands: tuple[str, ...]
    published: bool
    settled: bool
    withdrawn: bool = False


@dataclass(frozen=True)
class KnownTable:
    """The tile index. Rows that are missing, too many or pointing elsewhere, of `rows`."""

    ours: bool
    rows: int = 0
    missing: int = 0
    extra: int = 0
    odd: int = 0


@dataclass
class Known:
    """What Postgres and Dagster hold of one collection. `served`: keys of the COGs that the map reads by our table;
    `mosaic`: key of the overview mosaic that the map reads; `mosaics`: others that are noted; `partitions`: of frames."""

    row: KnownCollection | None = None
    frames: dict[str, KnownFrame] = field(default_factory=dict)
    sources: dict[str, KnownSource] = field(default_factory=dict)
    table: KnownTable | None = None
    served: set[str] = field(default_factory=set)
    mosaic: str | None = None
    mosaics: set[str] = field(default_factory=set)
    partitions: set[str] = field(default_factory=set)
    collection_partition: bool = False


def count(actions: Iterable[Action]) -> dict[Kind, int]:
    """How many of each kind, in the order of `Kind`."""
    counted = Counter(action.kind for action in actions)
    return {kind: counted[kind] for kind in Kind if counted[kind]}
