"""Batched events are equal to those of Dagster's own API; this fails if a Dagster release changes the private API."""

from pathlib import Path

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset
from dagster._core.events import DagsterEvent
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.utils import make_new_run_id

from ls4_assets.assets import event_store, frame_checks, keys
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif

FOLDER = "bw/Travis/USDA_1958/frames/georef"
PRODUCTS = [keys.product("Travis", step) for step in ("deflate", "overviews", "cog")]


def test_batch_has_events_for_every_frame_and_product(platform: Platform, tmp_path: Path) -> None:
    tif = write_tif(tmp_path / "good.tif", photograph(60, 70))
    names = [f"{FOLDER}/02-08-60_6-{number}.tif" for number in range(1, 5)]
    for name in names:
        platform.drop(name, tif)
    (run,) = platform.ingest()
    partitions = {frame_of(name).partition for name in names}
    for asset in PRODUCTS:
        materialized = platform.instance.fetch_materializations(asset, limit=100).records
        assert {record.asset_materialization.partition for record in materialized if record.asset_materialization} == partitions
        assert {record.run_id for record in materialized} == {run.run_id}
        assert {record.event_log_entry.step_key for record in materialized} == {keys.frames_op_name("Travis")}
        assert platform.instance.get_materialized_partitions(asset) == partitions
        (asset_record,) = platform.instance.get_asset_records([asset])
        assert asset_record.asset_entry.last_run_id == run.run_id
    assert platform.instance.get_latest_data_version_record(PRODUCTS[2], partition_key=frame_of(names[3]).partition) is not None


def test_each_frame_of_a_batch_has_one_check_evaluation(platform: Platform, tmp_path: Path) -> None:
    tif = write_tif(tmp_path / "good.tif", photograph(60, 70))
    names = [f"{FOLDER}/02-08-60_6-{number}.tif" for number in range(1, 4)]
    for name in names:
        platform.drop(name, tif)
    platform.drop(f"{FOLDER}/02-08-60_6-9.tif", b"%PDF-1.7")
    (run,) = platform.ingest()
    check = dg.AssetCheckKey(PRODUCTS[2], frame_checks.COG_VALID)
    rows = platform.instance.event_log_storage.get_asset_check_execution_history(check, limit=100)
    statuses = {row.partition: (row.status, row.run_id) for row in rows}
    passed = {frame_of(name).partition: (AssetCheckExecutionRecordStatus.SUCCEEDED, run.run_id) for name in names}
    failed = {frame_of(f"{FOLDER}/02-08-60_6-9.tif").partition: (AssetCheckExecutionRecordStatus.FAILED, run.run_id)}
    assert (len(rows), statuses) == (4, passed | failed)
    log = [record.event_log_entry for record in platform.instance.get_records_for_run(run.run_id).records]
    evaluated = [entry for entry in log if entry.dagster_event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION]
    assert [entry.get_dagster_event().asset_check_evaluation_data.passed for entry in evaluated].count(True) == 0
    events = [row.event for row in rows if row.event and row.event.dagster_event]
    evaluations = [event.dagster_event.asset_check_evaluation_data for event in events if event.dagster_event]
    assert {evaluation.partition for evaluation in evaluations} == set(statuses)
    assert {event.step_key for event in events} == {keys.frames_op_name("Travis")}


def test_evaluation_replaces_the_planned_one(platform: Platform) -> None:
    """A run from the Dagster UI plans checks per partition. Dagster allows only one row, so the evaluation must replace it."""
    partitions = [frame_of(f"{FOLDER}/02-08-60_6-{number}.tif").partition for number in (1, 2)]
    origin = event_store.EventOrigin(make_new_run_id(), "job", "step")
    planned = AssetCheckEvaluationPlanned(
        asset_key=PRODUCTS[2], check_name=frame_checks.COG_VALID, partitions_subset=DefaultPartitionsSubset(set(partitions))
    )
    event = DagsterEvent("ASSET_CHECK_EVALUATION_PLANNED", origin.job, event_specific_data=planned, step_key=origin.step)
    platform.instance.report_dagster_event(event, origin.run_id)
    evaluation = dg.AssetCheckEvaluation(
        asset_key=PRODUCTS[2], check_name=frame_checks.COG_VALID, passed=True, partition=partitions[0]
    )
    event_store.store_checks(platform.instance, origin, [evaluation])
    check = dg.AssetCheckKey(PRODUCTS[2], frame_checks.COG_VALID)
    rows = platform.instance.event_log_storage.get_asset_check_execution_history(check, limit=100)
    assert sorted((row.partition, row.status.value) for row in rows) == [(partitions[0], "SUCCEEDED"), (partitions[1], "PLANNED")]


def test_events_of_good_frames_are_stored_when_another_frame_fails(platform: Platform, tmp_path: Path) -> None:
    """The last frame of a batch failed, the run raised, and the good frames of the batch were missing in the Dagster UI."""
    tif = write_tif(tmp_path / "good.tif", photograph(60, 70))
    for number in range(3):
        platform.drop(f"{FOLDER}/02-08-60_6-{number}.tif", tif)
    platform.drop(f"{FOLDER}/02-08-60_6-9.tif", b"%PDF-1.7")
    (run,) = platform.ingest()
    assert not run.success
    assert len(platform.instance.get_materialized_partitions(PRODUCTS[2])) == 3
    assert {platform.state(f"{FOLDER}/02-08-60_6-{number}.tif")[0] for number in range(3)} == {"done"}
    assert platform.state(f"{FOLDER}/02-08-60_6-9.tif")[0] == "failed"
    failed = platform.instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations(
        PRODUCTS[2]
    )
    assert set(failed) == {frame_of(f"{FOLDER}/02-08-60_6-9.tif").partition}


def test_second_evaluation_without_a_run_replaces_the_first(platform: Platform) -> None:
    """A raw scan that came, and was deleted later, ended each tick with a violated unique key."""
    frame = frame_of(f"{FOLDER}/02-08-60_6-1.tif")
    for arrived in (True, False):
        platform.instance.report_runless_asset_event(frame_checks.raw_scan_evaluation(frame, arrived))
    check = dg.AssetCheckKey(PRODUCTS[2], frame_checks.RAW_SCAN_EXISTS)
    rows = platform.instance.event_log_storage.get_asset_check_execution_history(check, limit=100)
    assert [row.status for row in rows] == [AssetCheckExecutionRecordStatus.FAILED]
