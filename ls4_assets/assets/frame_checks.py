"""Asset checks of frames, with one evaluation per partition. Checks of collections are in `checks`.

`cog_valid` on `cog` blocks: a version that fails validation (`processing.quality`), or could not be built, is never published,
so the last good version stays on the map. `raw_scan_exists` warns when a frame is built without its raw scan and passes when the
scan arrives (`ingest.late_raw_scans`). A frame whose scan existed from the start has no evaluation of it, because every
evaluation is a row in Dagster's event log.
"""

import warnings
from collections.abc import Iterator, Sequence

import dagster as dg

from ls4_assets.assets import keys
from ls4_assets.domain.names import Frame
from ls4_assets.domain.products import Step
from ls4_assets.processing.tasks import FrameOutcome

COG_VALID = "cog_valid"
RAW_SCAN_EXISTS = "raw_scan_exists"
DATUM_GRIDS_EXIST = "datum_grids_exist"


def check_specs(shard: str) -> list[dg.AssetCheckSpec]:
    """Specs of the checks of a shard's COGs."""
    partitions, cog = keys.frame_partitions(shard), keys.product(shard, "cog")
    with warnings.catch_warnings():
        # Partitioned checks are a preview feature in Dagster 1.13 (version pinned, behavior tested in test_checks.py).
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                COG_VALID,
                asset=cog,
                partitions_def=partitions,
                blocking=True,
                description=(
                    "The COG has the required layout, pixels, mask, location and name. "
                    "A version that fails is not published, and the last good version stays on the map."
                ),
            ),
            dg.AssetCheckSpec(
                RAW_SCAN_EXISTS,
                asset=cog,
                partitions_def=partitions,
                description=(
                    "The raw scan is in scanned/. Warns until it arrives. "
                    "Frames whose scan existed from the start have no evaluation."
                ),
            ),
            dg.AssetCheckSpec(
                DATUM_GRIDS_EXIST,
                asset=cog,
                partitions_def=partitions,
                description=(
                    "PROJ has the grids that place the frame accurately. Warns with the transformation used and its accuracy "
                    "when they are missing. Frames that never lacked a grid have no evaluation."
                ),
            ),
        ]


def frame_evaluations(outcome: FrameOutcome | BaseException, steps: Sequence[Step]) -> Iterator[dg.AssetCheckEvaluation]:
    """Evaluations of a frame whose COG was selected: `cog_valid`, and `raw_scan_exists` if the scan is or was missing."""
    if "cog" not in steps or not isinstance(outcome, FrameOutcome) or outcome.status not in ("made", "reused", "failed"):
        return
    metadata = {finding.check: finding.error or finding.measured for finding in outcome.findings}
    if outcome.status == "reused":
        metadata = {"state": "unchanged since it was built and validated"}
    failed_checks = sorted(finding.check for finding in outcome.findings if finding.error)
    yield dg.AssetCheckEvaluation(
        asset_key=keys.product(outcome.frame.collection.shard, "cog"),
        check_name=COG_VALID,
        passed=outcome.status != "failed",
        partition=outcome.frame.partition,
        blocking=True,
        description=outcome.reason,
        metadata=metadata | ({"failed_checks": ", ".join(failed_checks)} if failed_checks else {}),
    )
    grids = outcome.facts.get("missing_grids", []) if outcome.facts else []
    transformation = outcome.result.transformation if outcome.result else None
    if transformation and (grids or outcome.had_missing_grids):
        yield grids_evaluation(outcome.frame, str(transformation), transformation.better_name, grids)
    if outcome.raw_scan in ("missing", "arrived"):
        yield raw_scan_evaluation(outcome.frame, outcome.raw_scan == "arrived")


def failed_evaluation(shard: str, partition: str, reason: str) -> dg.AssetCheckEvaluation:
    """A failed `cog_valid` of a frame without an outcome: no COG was made, for this reason."""
    return dg.AssetCheckEvaluation(
        asset_key=keys.product(shard, "cog"),
        check_name=COG_VALID,
        passed=False,
        partition=partition,
        blocking=True,
        description=reason,
    )


def restored_evaluation(frame: Frame, reason: str | None) -> dg.AssetCheckEvaluation:
    """`cog_valid` of a frame with a published COG, from its rows. `reason`: why a later version failed, None without one."""
    if reason:
        return failed_evaluation(frame.collection.shard, frame.partition, reason)
    return dg.AssetCheckEvaluation(
        asset_key=keys.product(frame.collection.shard, "cog"),
        check_name=COG_VALID,
        passed=True,
        partition=frame.partition,
        blocking=True,
        metadata={"restored": "from Postgres: this version passed before it was published"},
    )


def grids_evaluation(frame: Frame, transformation: str, better: str, grids: Sequence[str]) -> dg.AssetCheckEvaluation:
    """Evaluation of `datum_grids_exist`. `better`: the transformation that needs `grids`, those that are missing."""
    advice = (
        f"The frame was placed with {transformation}; {better} is more accurate with {', '.join(grids)}. "
        "Put these grids into the folder in LS4_PROJ_GRIDS (`ls4 doctor` has the addresses), then materialize the frame again."
    )
    return dg.AssetCheckEvaluation(
        asset_key=keys.product(frame.collection.shard, "cog"),
        check_name=DATUM_GRIDS_EXIST,
        passed=not grids,
        partition=frame.partition,
        severity=dg.AssetCheckSeverity.WARN,
        description=advice if grids else None,
        metadata={"transformation": transformation, "missing_grids": ", ".join(grids)},
    )


def raw_scan_evaluation(frame: Frame, arrived: bool) -> dg.AssetCheckEvaluation:
    """Evaluation of `raw_scan_exists` for a frame whose raw scan is missing or has arrived."""
    scan_key = f"{frame.folder}/scanned/{frame.scan_stem}.tif"
    advice = f"The raw scan is missing; put it in {scan_key}, and ls4 links it automatically."
    return dg.AssetCheckEvaluation(
        asset_key=keys.product(frame.collection.shard, "cog"),
        check_name=RAW_SCAN_EXISTS,
        passed=arrived,
        partition=frame.partition,
        severity=dg.AssetCheckSeverity.WARN,
        description=None if arrived else advice,
    )
