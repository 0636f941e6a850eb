"""What the operator reads while collections are adopted, or planned to be."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ls4_assets.operations.adopt.collection import Report


@dataclass
class Told:
    """Sums over all collections so far. `applied`: it was done, and not only planned."""

    applied: bool
    collections: int
    seen: int = 0
    adopted: int = 0
    known: int = 0
    outdated: int = 0
    problems: int = 0
    failed: list[str] = field(default_factory=list)

    def of(self, report: Report) -> Iterator[str]:
        """The lines on one collection; none when nothing of it is new or wrong."""
        self.seen += 1
        self.adopted += report.adopted
        self.known += report.known
        self.outdated += report.outdated
        self.problems += len(report.problems)
        if not (report.adopted or report.problems or report.legacy_rows or report.gone):
            return
        counts = f"{report.adopted} {self._would}, {report.known} known already, {len(report.problems)} not acceptable"
        yield f"[{self.seen}/{self.collections}] {report.of.name}: {counts}"
        for line in self._details(report):
            yield f"    {line}"
        for sentence in report.problems.values():
            yield f"    not adopted: {sentence}"

    def failure(self, name: str, sentence: str) -> Iterator[str]:
        """The line on a collection that cannot be adopted as a whole."""
        self.seen += 1
        self.failed.append(name)
        yield f"[{self.seen}/{self.collections}] {name}: {sentence}"

    def end(self, seconds: float) -> Iterator[str]:
        counts = f"{self.adopted} {self._would}, {self.known} known already, {self.problems} not acceptable"
        rate = f", {self.adopted / seconds:.0f} frames a second" if self.applied and self.adopted and seconds else ""
        yield f"{self.collections} collections: {counts}; {seconds:.0f} s{rate}."
        if self.outdated:
            yield (
                f"{self.outdated} COGs are older than their georef tif and will be made anew; where the files were copied, "
                "so that their times say nothing, use --ignore-times."
            )
        if self.failed:
            yield f"{len(self.failed)} collections failed: {', '.join(self.failed)}. Mend what is said of each, and adopt again."
        elif not self.applied and self.adopted:
            yield "This was the plan; --apply carries it out."
        elif self.applied and self.adopted:
            yield "Their indexes and maps follow by themselves; `ls4 status` tells when."

    @property
    def _would(self) -> str:
        return "adopted" if self.applied else "to adopt"

    def _details(self, report: Report) -> Iterator[str]:
        if report.without_source:
            yield f"{report.without_source} have no georef tif: they stay on the map, but cannot be made anew"
        if report.outdated:
            yield f"{report.outdated} are older than their georef tif: the map shows them until they are made anew"
        if report.unmasked:
            yield (
                f"{report.unmasked} have neither mask nor no-data value: a collar of theirs stays visible, and their footprint "
                f"the image's rectangle; `ls4 rematerialize {report.of.name}` makes them anew from their georef tifs"
            )
        if report.gone:
            leave = "leave the map" if self.applied else "are to leave the map"
            yield f"{report.gone} that had no georef tif {leave}, as their COG is gone"
        if report.legacy_rows is not None:
            lost = f", {report.lost} of them left out as their COG is not there" if report.lost else ""
            verb = "was taken over" if self.applied else "is to be taken over"
            yield f"its index table of {report.legacy_rows} rows {verb}{lost}; {report.outlined} boxes become outlines"
