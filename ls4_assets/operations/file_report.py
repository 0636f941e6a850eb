"""The report of `ls4 check` about one file: what is wrong, and where and what it would be on the map."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ls4_assets.domain.printable import printable
from ls4_assets.domain.regions.distance import footprint_center
from ls4_assets.raster.frame import FrameResult
from ls4_assets.raster.source import Source

Facts = dict[str, str | int | float | list[float]]


@dataclass(frozen=True)
class FileReport:
    """rejections: sentences with which the archive would reject the file. warnings: sentences about what it would accept.
    facts: what the file would be on the map; empty when it could not be processed."""

    file: str
    rejections: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: Facts | None = None

    @property
    def is_accepted(self) -> bool:
        return not self.rejections


def describe_result(source: Source, result: FrameResult, *, is_placed: bool) -> Facts:
    """Return the facts of a processed file. Lengths are in meters on the ground, and not in the stretched meters of EPSG:3857.

    `is_placed`: the scan has a georeference, and not a provisional one.
    """
    facts: Facts = {
        "film_type": source.film_type,
        "width_px": source.width,
        "height_px": source.height,
        "bands": source.count,
        "collar_rule": result.mask_rule or "nothing",
        "collar_share": round(result.mask_share, 4),
    }
    if not is_placed or result.footprint_wkb is None:
        return facts
    longitude, latitude = footprint_center(result.footprint_wkb)
    scale = math.cos(math.radians(latitude))
    pixel = abs(result.transform[0]) * scale
    return facts | {
        "center": [round(latitude, 6), round(longitude, 6)],
        "ground_width_m": round(result.width * pixel, 1),
        "ground_height_m": round(result.height * pixel, 1),
        "pixel_m": round(pixel, 4),
        "crs": source.crs_label,
        "position": source.georeference.position_source,
        "transformation": str(source.georeference.transformation),
    }


def format_report(report: FileReport) -> Iterator[str]:
    """Yield the lines for a terminal."""
    yield f"{'ok' if report.is_accepted else 'REJECTED'}: {printable(report.file)}"
    yield from (f"  {printable(sentence)}" for sentence in report.rejections)
    yield from (f"  warning: {printable(sentence)}" for sentence in report.warnings)
    if facts := report.facts:
        collar = f"{100 * float(str(facts['collar_share'])):.1f} % collar (by rule: {facts['collar_rule']})"
        yield f"  {facts['film_type']}, {facts['width_px']} x {facts['height_px']} px, {facts['bands']} band(s), {collar}"
        if center := facts.get("center"):
            assert isinstance(center, list)
            size = f"{facts['ground_width_m']} x {facts['ground_height_m']} m, pixels of {facts['pixel_m']} m"
            yield f"  center {center[0]}, {center[1]}; {size}"
            yield printable(f"  {facts['crs']}, position from {facts['position']}; transformation {facts['transformation']}")
