"""May the map show this frame? What is asked of every frame before it is published, as findings.

A wrong finding keeps the version out of the archive's products and its index: the frame is failed, its last good version stays.
Pure: what was measured is in the frame's result (ls4_assets.raster), and how the Dagster UI shows it is told in
ls4_assets/assets/frame_checks.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ls4_assets.domain.names import Frame
from ls4_assets.domain.regions import RegionBounds
from ls4_assets.domain.regions.distance import kilometres_off, middle
from ls4_assets.errors import FrameError, InvalidNameError
from ls4_assets.raster.fidelity import Fidelity
from ls4_assets.raster.frame import FrameResult

MARGIN_KM = 25.0
"""Flights stray over a county's border, by a frame or a few; none strays this far."""
_SHARE = 1e-6


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what was `found`, and what is `wrong` with it, with advice; empty when it is right."""

    what: str
    found: str
    wrong: str = ""


class FrameQualityError(FrameError):
    """A frame that was made and must not be shown."""

    def __init__(self, frame: Frame, findings: Sequence[Finding]) -> None:
        wrong = "; ".join(finding.wrong for finding in findings if finding.wrong)
        super().__init__(f"{frame.stem} is not as it should be: {wrong}.")
        self.findings = tuple(findings)


def validate_frame(frame: Frame, result: FrameResult, ground: RegionBounds, share: float | None) -> tuple[Finding, ...]:
    """All findings about a frame whose COG was made. `share`: valid pixels of the scan, 0 to 1, None where that is not known.

    Raises Unsound when something is wrong.
    """
    assert result.fidelity is not None
    findings = (
        _layout(result),
        _pixels(result.fidelity),
        _mask(result.fidelity, result.cog_valid_share, share),
        _place(frame, ground, result.footprint_wkb),
        _name(frame),
    )
    if any(finding.wrong for finding in findings):
        raise FrameQualityError(frame, findings)
    return findings


def _layout(result: FrameResult) -> Finding:
    levels = " ".join(map(str, result.overview_levels))
    bands = "1 band" if result.film_type == "bw" else "3 bands"
    wrong = f"its COG is not what its profile says ({'; '.join(result.cog_findings)}), so report this as a defect"
    found = f"strictly valid COG in EPSG:3857, {bands} of 8 bits, overviews {levels}"
    return Finding("layout", found, wrong) if result.cog_findings else Finding("layout", found)


def _pixels(fidelity: Fidelity) -> Finding:
    if fidelity.unlike == 0:
        return Finding("pixels", f"{fidelity.blocks} of {fidelity.blocks} blocks compared are equal to the scan's")
    found = f"{fidelity.psnr:.1f} dB like the scan in {fidelity.blocks} blocks"
    if fidelity.is_kept:
        return Finding("pixels", f"{found}; at least {fidelity.least:.1f} dB are asked for")
    asked = "all have to be equal" if fidelity.least == float("inf") else f"{fidelity.least:.1f} dB are asked for"
    advice = "materialise it again, and report it if that stays"
    return Finding(
        "pixels",
        found,
        f"its COG differs from the scan in {fidelity.unlike} of {fidelity.blocks} blocks ({found}; {asked}), so {advice}",
    )


def _mask(fidelity: Fidelity, ours: float | None, scans: float | None) -> Finding:
    found = f"{100 * (ours or 0):.2f} % of the COG are photograph"
    if scans is not None:
        found += f", {100 * scans:.2f} % of the scan in its place"
    if not fidelity.masks_unlike and (scans is None or abs((ours or 0) - scans) <= _SHARE):
        return Finding("mask", found)
    return Finding("mask", found, f"its collar is not the scan's ({found}), so materialise it again, and report it if that stays")


def _place(frame: Frame, ground: RegionBounds, footprint: bytes | None) -> Finding:
    shard = frame.collection.shard
    off = kilometres_off(ground, shard, footprint) if footprint else None
    if off is None or footprint is None:
        return Finding("place", f"not compared: no outline of {shard} is known")
    longitude, latitude = middle(footprint)
    found = f"{off:.0f} km from {shard}" if off else f"in {shard}"
    if off <= MARGIN_KM:
        return Finding("place", f"{found} ({latitude:.3f}, {longitude:.3f})")
    lies = f"it lies {off:,.0f} km from {shard}, at latitude {latitude:.3f} and longitude {longitude:.3f}"
    advice = "check its georeference and its folder, and drop it again"
    return Finding("place", found, f"{lies}, so {advice}")


def _name(frame: Frame) -> Finding:
    try:
        named = frame.attributes
    except InvalidNameError as rejected:
        return Finding("name", frame.stem, str(rejected).rstrip("."))
    return Finding("name", f"date {named.date}, roll {named.roll}, frame {named.frame_num}")
