"""Partition keys that people type into the Materialize dialog: each fails only itself, and reconcile removes all of them."""

from datetime import timedelta
from pathlib import Path

import dagster as dg

from ls4_assets.assets import keys
from ls4_assets.operations.reconcile.model import ActionKind
from ls4_assets.operations.reconcile.run import Reconciler
from ls4_assets_tests.platform import Platform, frame_of

KEYS = [f"bw/Travis/USDA_1958/frames/georef/02-08-60_6-10{number}.tif" for number in (1, 2)]
FRAMES = [frame_of(key) for key in KEYS]
STRAY_FRAMES = ["oops", "USDA_1958/frames/bw/../x", "USDA_1958/frames/xx/02-08-60_6-101"]


def fill(platform: Platform, good: Path) -> None:
    for key in KEYS:
        platform.drop(key, good)
    platform.settle()
    platform.rebuild()


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (step,) = (event for event in result.all_events if event.is_step_failure)
    return str(step.step_failure_data.user_failure_data.description)  # type: ignore[union-attr]


def test_a_stray_key_fails_only_itself(platform: Platform, good: Path) -> None:
    """One mistyped partition failed the whole batch with `ValueError: not enough values to unpack` before any frame."""
    fill(platform, good)
    partitions = [FRAMES[0].partition, *STRAY_FRAMES, FRAMES[1].partition]
    platform.instance.add_dynamic_partitions("frames/Travis", STRAY_FRAMES)
    config = {"ops": {keys.frames_op_name("Travis"): {"config": {"frames": partitions, "rebuild": True}}}}
    selection = [keys.product("Travis", step) for step in ("deflate", "overviews", "cog")]
    result = platform.run(selection, config, FRAMES[0].partition)
    assert not result.success
    assert failure_of(result).startswith("3 of 5 frames failed; the others are done. ")
    assert "The partition oops names no frame" in failure_of(result)
    assert "remove it with `ls4 reconcile --apply`" in failure_of(result)
    statuses = platform.partitions("Travis", "cog")
    assert {statuses[frame.partition] for frame in FRAMES} == {"MATERIALIZED"}
    assert {statuses[stray] for stray in STRAY_FRAMES} == {"FAILED"}


def test_a_stray_key_of_a_collection_fails_with_a_sentence(platform: Platform) -> None:
    platform.instance.add_dynamic_partitions("collections/Travis", ["oops"])
    for asset in (keys.tile_index, keys.overview_mosaic, keys.mapfile, keys.exports):
        result = platform.run([asset("Travis")], partition_key="oops")
        assert not result.success
        assert failure_of(result).startswith("The partition oops names no collection")


def test_reconcile_removes_stray_keys_of_all_shards(platform: Platform, good: Path) -> None:
    """`ls4 reconcile --apply` removed neither `oops` nor a well-formed key of a county without frames."""
    fill(platform, good)
    stray = {
        "frames/Travis": [*STRAY_FRAMES, "USDA_1999/frames/bw/02-08-60_6-101", "USDA_1958/frames"],
        "collections/Travis": ["oops", "USDA_1999/frames"],
        "frames/Anderson": ["foo"],
        "collections/Anderson": ["USDA_1999/frames"],
    }
    before = {name: platform.instance.get_dynamic_partitions(name) for name in stray}
    for name, partitions in stray.items():
        platform.instance.add_dynamic_partitions(name, partitions)
    reports = list(Reconciler(platform.archive, platform.instance, apply=True, grace_period=timedelta(0)).run())
    removed = [action.target for report in reports for action in report.actions if action.kind == ActionKind.REMOVE_PARTITION]
    assert sorted(removed) == sorted(key for partitions in stray.values() for key in partitions)
    assert {name: platform.instance.get_dynamic_partitions(name) for name in stray} == before
    assert before["frames/Travis"] == [frame.partition for frame in FRAMES]
    assert all(report.is_consistent for report in Reconciler(platform.archive, platform.instance).run())
