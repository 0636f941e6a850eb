"""After a wipe of materializations in the Dagster UI, reconcile restores them without touching a pixel."""

from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster import AssetRecordsFilter
from dagster._core.event_api import PartitionKeyFilter

from ls4_assets.assets import frame_checks, keys
from ls4_assets.domain.products import STEPS
from ls4_assets.operations.reconcile.model import ActionKind
from ls4_assets.operations.reconcile.run import Reconciler
from ls4_assets_tests.platform import Platform, frame_of

KEYS = [f"bw/Travis/USDA_1958/frames/georef/02-08-60_6-10{number}.tif" for number in (1, 2)]
PARTITIONS = [frame_of(key).partition for key in KEYS]
INDEX = "SELECT * FROM travis_usda_1958_frames ORDER BY location"
VERSION_TAGS = ("dagster/data_version", "dagster/code_version", "dagster/input_data_version")


def version_tags(platform: Platform) -> dict[tuple[str, str], dict[str, str]]:
    """The tags of the newest materialization of every frame, from which Dagster computes what is stale."""
    found = {}
    for asset in ("georef", *STEPS):
        for partition in PARTITIONS:
            filter_ = AssetRecordsFilter(asset_key=dg.AssetKey(["Travis", asset]), asset_partitions=[partition])
            (record,) = platform.instance.fetch_materializations(filter_, limit=1).records
            tags = record.asset_materialization.tags or {}  # type: ignore[union-attr]
            found[asset, partition] = {name: value for name, value in tags.items() if name.startswith(VERSION_TAGS)}
    return found


def checks(platform: Platform) -> dict[tuple[str, str], bool]:
    """Whether each check of each frame passed at its last evaluation."""
    found = {}
    for partition in PARTITIONS:
        for check in (frame_checks.COG_VALID, frame_checks.RAW_SCAN_EXISTS):
            key = dg.AssetCheckKey(keys.product("Travis", "cog"), check)
            storage = platform.instance.event_log_storage
            latest = storage.get_latest_asset_check_execution_by_key([key], PartitionKeyFilter(key=partition)).get(key)
            assert latest and latest.event and latest.event.dagster_event, (partition, check)
            found[partition, check] = latest.event.dagster_event.asset_check_evaluation_data.passed
    return found


@pytest.mark.parametrize("wiped", [("cog",), ("georef", *STEPS)])
def test_wiped_history_heals(platform: Platform, good: Path, wiped: tuple[str, ...]) -> None:
    """A wiped history never came back: the UI said 0 of 7, and *Missing* would have made right frames again."""
    for key in KEYS:
        platform.drop(key, good)
    platform.settle()
    platform.rebuild()
    before, checked = version_tags(platform), checks(platform)
    rows, index = platform.rows("SELECT * FROM ls4.frame ORDER BY id"), platform.rows(INDEX)
    files = {stored.key: stored.version for stored in platform.storage.list("")}
    platform.instance.wipe_assets([dg.AssetKey(["Travis", asset]) for asset in wiped])
    assert platform.instance.get_materialized_partitions(keys.product("Travis", "cog")) == set()

    def reconcile(*, apply: bool) -> list[ActionKind]:
        reconciler = Reconciler(platform.archive, platform.instance, apply, grace_period=timedelta(0))
        return [action.kind for report in reconciler.run() for action in report.actions]

    assert reconcile(apply=True) == [ActionKind.RECORD] * 2
    assert version_tags(platform) == before
    # A wipe deletes the evaluations too, and the check of the frame said nothing.
    assert checks(platform) == checked
    assert set(checked.values()) == {True, False}, "the raw scans are missing"
    assert set(platform.partitions("Travis", "cog").values()) == {"MATERIALIZED"}
    assert (platform.rows("SELECT * FROM ls4.frame ORDER BY id"), platform.rows(INDEX)) == (rows, index)
    assert {stored.key: stored.version for stored in platform.storage.list("")} == files
    assert reconcile(apply=False) == []
