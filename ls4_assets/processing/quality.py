"""Quality checks of a frame before it is published.

A failed check keeps the version out of the archive: the frame fails, and its last good version stays on the map. The checks only
judge the measurements in the frame's result (`ls4_assets.raster`); `ls4_assets/assets/frame_checks.py` shows them in the
Dagster UI.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import Frame
from ls4_assets.domain.regions import RegionBounds
from ls4_assets.domain.regions.distance import distance_km, footprint_center
from ls4_assets.errors import FrameError, InvalidNameError
from ls4_assets.raster.fidelity import Fidelity
from ls4_assets.raster.frame import FrameResult

MARGIN_KM = 25.0
"""Flights cross a county's border by a few frames, and never by more than this."""
_SHARE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Finding:
    """Result of one check: what was `measured`, and the `error` with advice, which is empty when the check passed."""

    check: str
    measured: str
    error: str = ""


class FrameQualityError(FrameError):
    """A processed frame that must not be published."""

    def __init__(self, frame: Frame, findings: Sequence[Finding]) -> None:
        errors = ". Also, ".join(finding.error for finding in findings if finding.error)
        super().__init__(f"{frame.stem} failed validation: {errors}.")
        self.findings = tuple(findings)


def validate_frame(
    frame: Frame, result: FrameResult, region_bounds: RegionBounds, source_valid_share: float | None
) -> tuple[Finding, ...]:
    """Return the findings of all checks of a new COG; raises FrameQualityError when one failed.

    `source_valid_share`: share of valid pixels in the scan, 0 to 1, or None when unknown.
    """
    findings = (*check_result(frame.collection.shard, result, region_bounds, source_valid_share), _check_name(frame))
    if any(finding.error for finding in findings):
        raise FrameQualityError(frame, findings)
    return findings


def check_result(
    shard: str, result: FrameResult, region_bounds: RegionBounds, source_valid_share: float | None
) -> tuple[Finding, ...]:
    """Return the findings of all checks of a new COG that need no name. `shard`: where it should be located."""
    assert result.fidelity is not None
    return (
        _check_layout(result),
        _check_pixels(result.fidelity),
        _check_mask(result.fidelity, result.cog_valid_share, source_valid_share),
        _check_location(shard, region_bounds, result),
    )


def _check_layout(result: FrameResult) -> Finding:
    levels = " ".join(map(str, result.overview_levels))
    bands = FILM_TYPES[result.film_type].required_bands
    measured = f"strictly valid COG in EPSG:3857, {bands} of 8 bits each, overviews {levels}"
    error = f"its COG does not match its profile ({', '.join(result.cog_findings)}); report this as a defect"
    return Finding("layout", measured, error) if result.cog_findings else Finding("layout", measured)


def _check_pixels(fidelity: Fidelity) -> Finding:
    if fidelity.differing_blocks == 0:
        return Finding("pixels", f"{fidelity.blocks} of {fidelity.blocks} compared blocks are equal to the scan")
    measured = f"PSNR of {fidelity.psnr_db:.1f} dB against the scan in {fidelity.blocks} blocks"
    is_lossless = fidelity.min_psnr_db == float("inf")
    minimum = "all must be equal" if is_lossless else f"the minimum is {fidelity.min_psnr_db:.1f} dB"
    if fidelity.is_sufficient:
        return Finding("pixels", f"{measured}, {minimum}")
    return Finding(
        "pixels",
        measured,
        f"its COG differs from the scan in {fidelity.differing_blocks} of {fidelity.blocks} blocks ({measured}, {minimum}); "
        "materialize it again, and report it if the error persists",
    )


def _check_mask(fidelity: Fidelity, cog_share: float | None, source_share: float | None) -> Finding:
    measured = f"{100 * (cog_share or 0):.2f} % of the COG is photograph"
    if source_share is not None:
        measured += f", {100 * source_share:.2f} % of the scan"
    if not fidelity.differing_masks and (source_share is None or abs((cog_share or 0) - source_share) <= _SHARE_TOLERANCE):
        return Finding("mask", measured)
    error = f"its collar differs from the scan's ({measured}); materialize it again, and report it if the error persists"
    return Finding("mask", measured, error)


def _check_location(shard: str, region_bounds: RegionBounds, result: FrameResult) -> Finding:
    footprint = result.footprint_wkb
    distance = distance_km(region_bounds, shard, footprint) if footprint else None
    if distance is None or footprint is None:
        return Finding("location", f"not checked: the region of {shard} is unknown")
    longitude, latitude = footprint_center(footprint)
    measured = f"{distance:.0f} km from {shard}" if distance else f"in {shard}"
    if distance <= MARGIN_KM:
        datum = f", placed with {result.transformation}" if result.transformation else ""
        return Finding("location", f"{measured} ({latitude:.3f}, {longitude:.3f}){datum}")
    error = f"it lies {distance:,.0f} km from {shard}, at latitude {latitude:.3f} and longitude {longitude:.3f}"
    return Finding("location", measured, f"{error}; check its georeference and its folder, and drop it again")


def _check_name(frame: Frame) -> Finding:
    try:
        attributes = frame.attributes
    except InvalidNameError as error:
        return Finding("name", frame.stem, str(error).rstrip("."))
    return Finding("name", f"date {attributes.date}, roll {attributes.roll}, frame {attributes.frame_num}")
