"""The input and the output of a worker: plain, picklable data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ls4_assets.db.frames import FrameFacts, Product, SourceRecord
from ls4_assets.domain.names import Frame
from ls4_assets.domain.products import Step
from ls4_assets.processing.quality import Finding
from ls4_assets.processing.raw_scans import RawScanState
from ls4_assets.raster.frame import FrameResult
from ls4_assets.settings import Settings


@dataclass(frozen=True)
class FrameTask:
    """The steps of a frame that a run requests.

    rebuild: also rebuild products that are up to date, unless the run `run_id` built them.
    scratch: an existing folder that belongs to the run.
    """

    settings: Settings
    frame: Frame
    steps: tuple[Step, ...]
    rebuild: bool
    run_id: str
    scratch: Path


@dataclass(frozen=True)
class FrameOutcome:
    """The result of a task.

    status: made: products were written; reused: they were up to date; superseded: the tif was replaced or removed in the
        meantime, and another run follows; failed: the content of the frame is at fault (see `reason`); waiting: the disk is too
        full for it now (see `reason`).
    complete: all three products are up to date, not only the requested ones.
    findings: results of the quality checks of a new COG.
    had_missing_grids: the previous version of the frame was placed without a grid that would have made it more accurate.
    raw_scan: state of the raw scan of a new COG; None for a mosaic sheet.
    """

    frame: Frame
    status: Literal["made", "reused", "superseded", "failed", "waiting"]
    reason: str | None = None
    source: SourceRecord | None = None
    content_hash: str = ""
    products: Mapping[Step, Product] | None = None
    facts: FrameFacts | None = None
    result: FrameResult | None = None
    complete: bool = False
    findings: tuple[Finding, ...] = ()
    raw_scan: RawScanState | None = None
    had_missing_grids: bool = False
    seconds: float = 0.0
    fetch_seconds: float = 0.0
    publish_seconds: float = 0.0
