"""What the operator reads of a comparison: the differences of each collection and their fixes, limited to a readable length."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ls4_assets.assets import markdown
from ls4_assets.domain.names import Collection
from ls4_assets.domain.printable import printable
from ls4_assets.operations.reconcile.model import Action, ActionKind, count_by_kind
from ls4_assets.operations.reconcile.run import ReconcileReport

# Actions of one kind that are listed by name.
ACTION_LIMIT = 3
# Collections that are printed; the others are only counted.
COLLECTION_LIMIT = 50

DESCRIPTIONS: Mapping[ActionKind, str] = {
    ActionKind.RESCAN: "scan {n} tifs in georef/ again, as the sensor does",
    ActionKind.REQUEUE: "make {n} frames again from their georef tifs",
    ActionKind.WITHDRAW: "remove {n} lost frames from the map",
    ActionKind.RELINK: "correct the link to {n} raw scans",
    ActionKind.REPUBLISH: "copy {n} COGs to their public key again",
    ActionKind.INDEX: "rewrite the index table",
    ActionKind.FILES: "rewrite the shapefile",
    ActionKind.MOSAIC: "rebuild the overview mosaic; the map reads single frames until then",
    ActionKind.MAP: "rewrite the mapfile and its tile documents",
    ActionKind.REMOVE: "delete {n} objects that are not served",
    ActionKind.DROP: "drop {n} tables without frames",
    ActionKind.ADD_PARTITION: "add {n} partitions to the Dagster UI",
    ActionKind.REMOVE_PARTITION: "remove {n} partitions from the Dagster UI",
    ActionKind.RECORD: "restore the history of {n} partitions in the Dagster UI",
    ActionKind.UNKNOWN: "{n} COGs were not made by ls4: take them over with `ls4 adopt {path}`, or delete them",
    ActionKind.FOREIGN: "its index table is not owned by ls4: take it over with `ls4 adopt {path}`",
}


@dataclass
class ReconcileSummary:
    """Totals over all collections so far. `errors`: collections that could not be compared or not fixed completely."""

    apply: bool
    collections: int = 0
    consistent: int = 0
    errors: int = 0
    counts: dict[ActionKind, int] = field(default_factory=dict)
    _inconsistent: int = 0

    def add(self, report: ReconcileReport) -> list[str]:
        """Add a report to the totals. Return its lines; none when the collection is consistent."""
        self.collections += bool(report.name)
        self.consistent += bool(report.name) and report.is_consistent
        self.errors += report.error is not None
        for kind, number in count_by_kind([*report.actions, *report.held]).items():
            self.counts[kind] = self.counts.get(kind, 0) + number
        if report.is_consistent:
            return []
        self._inconsistent += 1
        if self._inconsistent <= COLLECTION_LIMIT:
            return list(format_report(report))
        if self._inconsistent == COLLECTION_LIMIT + 1:
            return ["more collections are inconsistent: --json lists all of them, `ls4 reconcile NAME` checks one"]
        return []

    def final_lines(self) -> Iterator[str]:
        """Yield the totals, and what the operator does next."""
        yield f"{self.collections} collections, {self.consistent} consistent."
        if self.errors:
            yield f"{self.errors} could not be compared or fixed; the line of each says what to do."
        if self.counts and not self.apply:
            yield "This is the plan; --apply carries it out."
        elif self.counts:
            yield "The daemon now processes what was queued; `ls4 status` shows the progress."


def format_report(report: ReconcileReport) -> Iterator[str]:
    """Yield the lines of one collection."""
    name = report.name or "Without a collection"
    if report.error:
        yield f"{name}: {report.error}"
    elif not report.name or report.actions or report.held:
        yield f"{name}:"
    collection = Collection.from_name(report.name)
    path = collection.command_path if collection else ""
    yield from _format_actions(report.actions, path)
    if report.held:
        yield "    held, because it would delete much at once; use --apply --delete-many if intended, else restore the files:"
        yield from _format_actions(report.held, path)
    yield from (f"    {sentence}" for sentence in report.scan_errors)


def format_table(counts_by_name: Iterable[tuple[str, Mapping[ActionKind, int]]]) -> str:
    """Return the counts as a Markdown table for the Dagster UI, one row for each collection."""
    rows = [
        (name or "without a collection", ", ".join(f"{number} {kind}" for kind, number in counts.items()))
        for name, counts in counts_by_name
    ]
    return markdown.table(["collection", "inconsistencies"], rows) if rows else "everything is consistent"


def _format_actions(actions: Sequence[Action], path: str) -> Iterator[str]:
    for kind, number in count_by_kind(actions).items():
        of_kind = [action for action in actions if action.kind == kind]
        yield f"    {DESCRIPTIONS[kind].format(n=number, path=path)}"
        for action in of_kind[:ACTION_LIMIT]:
            yield f"        {printable(action.target)} {action.reason}"
        if number > ACTION_LIMIT:
            yield f"        and {number - ACTION_LIMIT:,} more"
