"""Asset checks of frames: what the Dagster UI shows of the soundness of each, one evaluation a partition.

`cog_valid` on `cog` blocks: a version with a wrong finding (ls4_assets/processing/quality.py), or one that could not be made, is
never published, so that the last good one stays on the map. `raw_scan_exists` warns: it opens when a frame is made without its
scan, and resolves by itself when the scan arrives (ls4_assets/ingest/late_raw_scans.py). A frame whose scan was there from the start has
no evaluation of it, because each is a row in Dagster's log.
"""

import warnings
from collections.abc import Iterator, Sequence

import dagster as dg

from ls4_assets.assets import keys
from ls4_assets.domain.names import Frame, Step
from ls4_assets.processing.tasks import Outcome

FRAME = "cog_valid"
SCAN = "raw_scan_exists"


def specs(shard: str) -> list[dg.AssetCheckSpec]:
    """The checks of a shard's COGs."""
    partitions, cog = keys.frame_partitions(shard), keys.product(shard, "cog")
    with warnings.catch_warnings():
        # Checks with partitions are a preview in 1.13 (pinned, and tested in test_checks.py).
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                FRAME,
                asset=cog,
                partitions_def=partitions,
                blocking=True,
                description="Layout, pixels, mask, place and name are as they should be; what is not is never published.",
            ),
            dg.AssetCheckSpec(
                SCAN,
                asset=cog,
                partitions_def=partitions,
                description="A warning while scanned/ lacks the raw scan. No evaluation: it was there from the start.",
            ),
        ]


def of_frame(outcome: Outcome | BaseException, steps: Sequence[Step]) -> Iterator[dg.AssetCheckEvaluation]:
    """What is told of a frame whose COG was asked for: one evaluation, and a second where its raw scan is missing, or was."""
    if "cog" not in steps or not isinstance(outcome, Outcome) or outcome.status not in ("made", "reused", "failed"):
        return
    metadata = {finding.what: finding.wrong or finding.found for finding in outcome.findings}
    if outcome.status == "reused":
        metadata = {"state": "unchanged since it was made, and was right then"}
    wrong = sorted(finding.what for finding in outcome.findings if finding.wrong)
    yield dg.AssetCheckEvaluation(
        asset_key=keys.product(outcome.frame.collection.shard, "cog"),
        check_name=FRAME,
        passed=outcome.status != "failed",
        partition=outcome.frame.partition,
        blocking=True,
        description=outcome.reason,
        metadata=metadata | ({"wrong": ", ".join(wrong)} if wrong else {}),
    )
    if outcome.scan in ("missing", "arrived"):
        yield of_scan(outcome.frame, outcome.scan == "arrived")


def of_scan(frame: Frame, arrived: bool) -> dg.AssetCheckEvaluation:
    """The state of a frame's raw scan, when it is missing or has come."""
    missing = f"Put the raw scan to {frame.folder}/scanned/{frame.scan_stem}.tif; it is linked by itself when it is there."
    return dg.AssetCheckEvaluation(
        asset_key=keys.product(frame.collection.shard, "cog"),
        check_name=SCAN,
        passed=arrived,
        partition=frame.partition,
        severity=dg.AssetCheckSeverity.WARN,
        description=None if arrived else missing,
    )
