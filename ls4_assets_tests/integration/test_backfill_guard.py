"""Two clicks in the Dagster UI must not remake the archive: Dagster's storage checks every backfill before it stores it."""

import time

import pytest
from dagster import DagsterInstance
from dagster._core.execution.backfill import PartitionBackfill

from ls4_assets.assets import keys
from ls4_assets.runtime import backfills
from ls4_assets.runtime.backfill_guard import CONFIRM_TAG, BackfillError
from ls4_assets_tests.platform import Platform

PARTITIONS = [f"USDA_1958/frames/bw/02-08-60_6-{number}" for number in range(101, 106)]
LIMIT = "LS4_BACKFILL_CONFIRM_FRAMES"


@pytest.fixture(autouse=True)
def settings(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the webserver, which stores the backfills of the UI."""
    for name in ("storage", "public_url", "map_url", "database_url"):
        monkeypatch.setenv(f"LS4_{name.upper()}", str(platform.archive.overrides[name]))
    monkeypatch.setenv(LIMIT, "4")
    platform.instance.add_dynamic_partitions("frames/Travis", PARTITIONS)


@pytest.fixture
def instance(platform: Platform) -> DagsterInstance:
    for backfill in platform.instance.get_backfills():
        cancel(platform.instance, backfill)
    return platform.instance


def cancel(instance: DagsterInstance, backfill: PartitionBackfill) -> None:
    instance.update_backfill(backfill._replace(status=backfills.BackfillStatus.CANCELED))


def launch(platform: Platform, frames: int, **tags: str) -> str:
    graph = platform.definitions.resolve_asset_graph()
    assets = [keys.product("Travis", step) for step in ("deflate", "overviews", "cog")]
    id_ = backfills.new_backfill_id()
    backfills.add_backfill(
        platform.instance, id_, graph, assets, PARTITIONS[:frames], tags=tags, title="", description="from the UI"
    )
    return id_


def test_a_large_backfill_needs_its_tag(platform: Platform, instance: DagsterInstance) -> None:
    """*Materialize all* enabled a backfill over everything."""
    with pytest.raises(BackfillError, match=rf"make 5 frames again, more than the 4 of {LIMIT}. .*the tag ls4/confirm"):
        launch(platform, 5)
    assert instance.get_backfills(status=backfills.BackfillStatus.REQUESTED) == []
    assert instance.get_backfill(launch(platform, 5, **{CONFIRM_TAG: "yes"}))


def test_a_backfill_queues_behind_drops_and_has_a_name(platform: Platform, instance: DagsterInstance) -> None:
    """Backfills from the UI overtook every drop: their priority was 0, and that of a drop is negative."""
    backfill = instance.get_backfill(launch(platform, 4))
    assert backfill
    assert int(backfill.tags["dagster/priority"]) < int(keys.run_priority(1000)["dagster/priority"])
    assert backfill.title == "Travis_USDA_1958_frames: 4 frames"
    assert (backfill.tags["ls4/collections"], backfill.tags["ls4/backfill_frames"]) == ("Travis_USDA_1958_frames", "4")
    # Runs inherit the tags: with this one, one run at a time would start.
    assert keys.COLLECTION_TAG not in backfill.tags
    chosen = instance.get_backfill(launch(platform, 3, **{"dagster/priority": "7"}))
    assert chosen
    assert chosen.tags["dagster/priority"] == "7"


def test_the_same_backfill_again_ends_with_a_sentence(platform: Platform, instance: DagsterInstance) -> None:
    """The same backfill launched twice made everything twice."""
    id_ = launch(platform, 4)
    with pytest.raises(BackfillError, match=f"The backfill {id_} makes the same partitions"):
        launch(platform, 4)
    assert launch(platform, 3)
    backfill = instance.get_backfill(id_)
    assert backfill
    cancel(instance, backfill)
    assert launch(platform, 4)


def test_a_backfill_of_an_empty_county_ends_with_a_sentence(platform: Platform, instance: DagsterInstance) -> None:
    """*All* on an empty county ended with Dagster's `CheckError: At least one run should be requested`."""
    everything = PartitionBackfill.from_asset_partitions(
        backfill_id=backfills.new_backfill_id(),
        asset_graph=platform.definitions.resolve_asset_graph(),
        partition_names=None,
        asset_selection=[keys.product("Bastrop", step) for step in ("deflate", "overviews", "cog")],
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=True,
        title=None,
        description=None,
        run_config=None,
    )
    with pytest.raises(BackfillError, match="has no partition"):
        instance.add_backfill(everything)
    assert instance.get_backfills(status=backfills.BackfillStatus.REQUESTED) == []
