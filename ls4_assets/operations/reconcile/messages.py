"""What the operator reads of a comparison: by collection what is out of step and what is done about it, in bounded print."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ls4_assets.assets import markdown
from ls4_assets.domain.names import Collection
from ls4_assets.operations.reconcile.model import Action, Kind, count
from ls4_assets.operations.reconcile.run import Report

# Of each kind so many are named.
NAMED = 3
# So many collections are told of one by one.
TOLD = 50

WORDS: Mapping[Kind, str] = {
    Kind.LOOK: "look again at {n} tifs in georef/, as the sensor does",
    Kind.REQUEUE: "make {n} frames anew from their georef tifs",
    Kind.WITHDRAW: "take {n} frames off the map that are lost",
    Kind.RELINK: "correct the link to {n} raw scans",
    Kind.REPUBLISH: "copy {n} COGs to their public key again",
    Kind.INDEX: "write the index table anew",
    Kind.FILES: "write the shapefile anew",
    Kind.MOSAIC: "make the overview mosaic anew; the map reads frames meanwhile",
    Kind.MAP: "write the mapfile and its tile documents anew",
    Kind.REMOVE: "delete {n} objects that nobody is served",
    Kind.DROP: "drop {n} tables of no frames",
    Kind.ADD_PARTITION: "add {n} partitions in the Dagster UI",
    Kind.REMOVE_PARTITION: "remove {n} partitions in the Dagster UI",
    Kind.UNKNOWN: "{n} COGs are not ls4's: `ls4 adopt {path}` takes them over, or delete them",
    Kind.FOREIGN: "its index table is not ls4's: `ls4 adopt {path}` takes it over",
}


@dataclass
class Told:
    """Sums over all collections so far."""

    apply: bool
    collections: int = 0
    in_step: int = 0
    rejected: int = 0
    counts: dict[Kind, int] = field(default_factory=dict)
    _told: int = 0

    def of(self, report: Report) -> Iterator[str]:
        """The lines on one collection; none when it is in step."""
        self.collections += bool(report.name)
        self.in_step += bool(report.name) and report.in_step
        self.rejected += report.rejected is not None
        for kind, many in count([*report.actions, *report.held]).items():
            self.counts[kind] = self.counts.get(kind, 0) + many
        if report.in_step:
            return
        self._told += 1
        if self._told <= TOLD:
            yield from lines(report)
        elif self._told == TOLD + 1:
            yield "more collections are out of step: --json names all, `ls4 reconcile NAME` tells of one"

    def end(self) -> Iterator[str]:
        yield f"{self.collections} collections, {self.in_step} in step."
        if self.rejected:
            yield f"{self.rejected} could not be compared or mended; what is said of each tells what to do."
        if self.counts and not self.apply:
            yield "This was the plan; --apply carries it out."
        elif self.counts:
            yield "What was queued or called due follows by itself; `ls4 status` tells when."


def lines(report: Report) -> Iterator[str]:
    name = report.name or "Of no collection"
    if report.rejected:
        yield f"{name}: {report.rejected}"
    elif not report.name or report.actions or report.held:
        yield f"{name}:"
    of = Collection.from_name(report.name)
    path = of.folder("bw") if of else ""
    yield from _grouped(report.actions, path)
    if report.held:
        yield "    held, as much would go at once; if that is meant: --apply --delete-many, else put back what is missing:"
        yield from _grouped(report.held, path)
    yield from (f"    {sentence}" for sentence in report.said)


def table(reports: Iterable[tuple[str, Mapping[Kind, int]]]) -> str:
    """The same for the Dagster UI, as Markdown: a line a collection."""
    rows = [(name or "of none", ", ".join(f"{many} {kind}" for kind, many in counts.items())) for name, counts in reports]
    return markdown.table(["collection", "out of step"], rows) if rows else "all in step"


def _grouped(actions: Sequence[Action], path: str) -> Iterator[str]:
    for kind, many in count(actions).items():
        mine = [action for action in actions if action.kind == kind]
        yield f"    {WORDS[kind].format(n=many, path=path)}"
        for action in mine[:NAMED]:
            yield f"        {action.target} {action.why}"
        if many > NAMED:
            yield f"        and {many - NAMED:,} more"
