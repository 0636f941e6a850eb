"""What a run asks of its workers, and what they answer: plain data that goes from process to process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ls4_assets.db.frames import Facts, Product, SourceRecord
from ls4_assets.domain.names import Frame, Step
from ls4_assets.processing.quality import Finding
from ls4_assets.processing.raw_scans import ScanState
from ls4_assets.raster.frame import FrameResult
from ls4_assets.settings import Settings


@dataclass(frozen=True)
class Order:
    """What a run asks for: these steps of this frame. `rebuild`: also what is right already, unless this `run` made it.
    `scratch`: an existing folder of the run's own."""

    settings: Settings
    frame: Frame
    steps: tuple[Step, ...]
    rebuild: bool
    run: str
    scratch: Path


@dataclass(frozen=True)
class Outcome:
    """What became of an order.

    made: products were written; reused: they were right already; superseded: a tif came or went meanwhile, and another run
    follows; failed: the frame's content is at fault (`reason`); waiting: there is no room for it now (`reason`).
    `complete`: all three products are right, whichever were asked for. `findings`: what was looked at in a COG that was made.
    `scan`: of a frame that was made, whether its raw scan lies there and did so before; None for a mosaic.
    """

    frame: Frame
    status: Literal["made", "reused", "superseded", "failed", "waiting"]
    reason: str | None = None
    source: SourceRecord | None = None
    content_hash: str = ""
    products: Mapping[Step, Product] | None = None
    facts: Facts | None = None
    result: FrameResult | None = None
    complete: bool = False
    findings: tuple[Finding, ...] = ()
    scan: ScanState | None = None
    seconds: float = 0.0
    fetch_seconds: float = 0.0
    publish_seconds: float = 0.0
