"""What `ls4 adopt` prints, for a plan and for an adoption. The sentences on single COGs are in `collection` and `inventory`."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ls4_assets.domain.names import Collection
from ls4_assets.operations.adopt.collection import AdoptReport


@dataclass
class AdoptSummary:
    """Totals over all collections so far. `applied`: the collections were adopted, not only planned."""

    applied: bool
    collections: int
    finished: int = 0
    adopted: int = 0
    existing: int = 0
    outdated: int = 0
    problems: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, result: AdoptReport | tuple[Collection, str]) -> list[str]:
        """Add a report, or a collection with its failure, to the totals. Return its lines; none if nothing is new or wrong."""
        self.finished += 1
        progress = f"[{self.finished}/{self.collections}]"
        if isinstance(result, AdoptReport):
            return self._add_report(result, progress)
        collection, sentence = result
        self.failed.append(collection.name)
        return [f"{progress} {collection.name}: {sentence}"]

    def _add_report(self, report: AdoptReport, progress: str) -> list[str]:
        self.adopted += report.adopted
        self.existing += report.existing
        self.outdated += report.outdated
        self.problems += len(report.problems)
        if not (report.adopted or report.problems or report.legacy_rows or report.missing_cogs):
            return []
        counts = self._format_counts(report.adopted, report.existing, len(report.problems))
        return [
            f"{progress} {report.collection.name}: {counts}",
            *(f"    {line}" for line in self._details(report)),
            *(f"    not adopted: {sentence}" for sentence in report.problems.values()),
        ]

    def final_lines(self, seconds: float) -> Iterator[str]:
        """Yield the totals, and what the operator does next."""
        rate = f", {self.adopted / seconds:.0f} frames a second" if self.applied and self.adopted and seconds else ""
        counts = self._format_counts(self.adopted, self.existing, self.problems)
        yield f"{self.collections} collections: {counts}; {seconds:.0f} s{rate}."
        if self.outdated:
            yield (
                f"{self.outdated} COGs are older than their georef tif and will be made again; "
                "if the files were copied, so that their times mean nothing, use --ignore-times."
            )
        if self.failed:
            yield f"{len(self.failed)} collections failed: {', '.join(self.failed)}. Fix what their lines say, then adopt again."
        elif not self.applied and self.adopted:
            yield "This is the plan; --apply carries it out."
        elif self.applied and self.adopted:
            yield "The daemon now updates their indexes and maps; `ls4 status` shows the progress."

    def _format_counts(self, adopted: int, existing: int, problems: int) -> str:
        return f"{adopted} {'adopted' if self.applied else 'to adopt'}, {existing} already recorded, {problems} not adoptable"

    def _details(self, report: AdoptReport) -> Iterator[str]:
        if report.without_source:
            yield f"{report.without_source} have no georef tif: they stay on the map, but cannot be made again"
        if report.outdated:
            yield f"{report.outdated} are older than their georef tif: the map shows them until they are made again"
        if report.unmasked:
            yield (
                f"{report.unmasked} have neither a mask nor a no-data value: their collar stays visible, and their footprint is "
                f"the image's rectangle; `ls4 rematerialize {report.collection.name}` makes them again from their georef tifs"
            )
        if report.missing_cogs:
            verb = "were removed from the map" if self.applied else "will be removed from the map"
            yield f"{report.missing_cogs} without a georef tif {verb}, because their COG is missing"
        if report.legacy_rows is not None:
            verb = "was taken over" if self.applied else "will be taken over"
            dropped = f", without {report.legacy_rows_dropped} rows whose COG is missing" if report.legacy_rows_dropped else ""
            yield (
                f"its index table of {report.legacy_rows} rows {verb}{dropped}; "
                f"{report.new_outlines} bounding boxes become outlines"
            )
