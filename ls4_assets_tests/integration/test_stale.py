"""A changed profile: exactly the frames of the old profile are stale, and one backfill updates them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from affine import Affine
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from ls4_assets.assets import keys
from ls4_assets.cli.backfill import launch_stale_backfills
from ls4_assets.db.stale import count_stale, find_stale_partitions, find_stale_profiles
from ls4_assets.domain.products import STEPS, Step
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect
from ls4_assets.operations.status_text import format_status
from ls4_assets_tests.platform import Platform, end_backfills, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

BW = [f"bw/Travis/USDA_1958/frames/georef/02-08-60_6-10{number}.tif" for number in range(2)]
NC = [f"nc/Travis/USDA_1958/frames/georef/02-08-60_7-10{number}.tif" for number in range(2)]
NAME = "Travis_USDA_1958_frames"
OTHER_NC = ("LS4_PROFILES__NC__JPEG_QUALITY", "70")
OTHER_BW = ("LS4_PROFILES__BW__OVERVIEW_RESAMPLING", "bilinear")


@pytest.fixture(scope="module")
def shared_platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    with running_platform(cluster, folder) as running:
        for number, key in enumerate([*BW, *NC]):
            drop(running, folder, key, number)
        running.settle()
        yield running


@pytest.fixture
def platform(shared_platform: Platform) -> Iterator[Platform]:
    """Two frames per film type with the default profiles, restored after each test."""
    yield shared_platform
    shared_platform.ingest()
    rematerialize_stale(shared_platform)


def drop(platform: Platform, folder: Path, key: str, seed: int) -> None:
    transform = Affine(1, 0, -10_880_000.0 + 700 * seed, 0, -1, 3_540_000.0)
    bands = 1 if key.startswith("bw") else 3
    platform.drop(key, write_tif(folder / f"{seed}.tif", photograph(600, 640, bands, seed), transform=transform))


ChangeOption = Callable[[tuple[str, str]], Platform]


@pytest.fixture
def change_option(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> ChangeOption:
    """A function that changes an option of a profile and returns the restarted platform."""

    def apply(option: tuple[str, str]) -> Platform:
        monkeypatch.setenv(*option)
        return platform.with_settings()

    return apply


def products(platform: Platform) -> dict[str, object]:
    return {str(row["id"]): row["products"] for row in platform.rows("SELECT id, products FROM ls4.frame")}


def stale_status(platform: Platform, key: str, step: Step) -> StaleStatus:
    """Returns the status that the Dagster UI shows for a frame."""
    graph = platform.definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(platform.instance, graph, LoadingContextForTest(platform.instance))
    return resolver.get_status(keys.product("Travis", step), frame_of(key).partition)


def rematerialize_stale(platform: Platform) -> list[dg.ExecuteInProcessResult]:
    """Launch the backfill of `ls4 rematerialize --stale` and run its partitions with their tags, as the daemon does."""
    results = []
    for launched in launch_stale_backfills(platform.instance, platform.settings):
        backfill = platform.instance.get_backfill(launched.id)
        assert backfill is not None
        results += [platform.run(list(launched.assets), partition_key=key, tags=backfill.tags) for key in launched.partitions]
    end_backfills(platform.instance)
    return results


def test_dagster_ui_shows_the_stale_frames(platform: Platform, change_option: ChangeOption) -> None:
    for key in (BW[0], NC[0]):
        assert {stale_status(platform, key, step) for step in STEPS} == {StaleStatus.FRESH}
    after = change_option(OTHER_BW)
    # Overviews and COG depend on the option, the deflate tif does not. One code version covers both film types, so the Dagster UI
    # shows nc as stale too.
    for key in (BW[0], NC[0]):
        assert [stale_status(after, key, step) for step in STEPS] == [StaleStatus.FRESH, StaleStatus.STALE, StaleStatus.STALE]
    rematerialize_stale(after)
    assert {stale_status(after, BW[0], step) for step in STEPS} == {StaleStatus.FRESH}


def test_replaced_tif_is_stale_in_the_dagster_ui_until_it_is_processed(platform: Platform, tmp_path: Path) -> None:
    drop(platform, tmp_path, BW[0], 9)
    results = [platform.tick("ingest_poll") for _ in range(3)]
    assert stale_status(platform, BW[0], "deflate") == StaleStatus.STALE
    assert stale_status(platform, BW[1], "deflate") == StaleStatus.FRESH
    for result in results:
        platform.execute(result)
    assert {stale_status(platform, BW[0], step) for step in STEPS} == {StaleStatus.FRESH}


def test_cog_rematerialized_alone_is_fresh(platform: Platform, change_option: ChangeOption) -> None:
    assert platform.run([keys.product("Travis", "cog")], partition_key=frame_of(BW[0]).partition).success
    assert stale_status(platform, BW[0], "cog") == StaleStatus.FRESH
    # Rebuilt with other options, its parent differs from the one that the COG was built from.
    after = change_option(("LS4_PROFILES__BW__DEFLATE_ZLEVEL", "3"))
    assert after.run([keys.product("Travis", "overviews")], partition_key=frame_of(BW[0]).partition).success
    assert stale_status(after, BW[0], "cog") == StaleStatus.STALE


def test_backfill_rebuilds_exactly_the_stale_frames_of_the_changed_film_type(
    platform: Platform, change_option: ChangeOption
) -> None:
    with platform.database.connect() as connection:
        assert count_stale(connection, platform.settings.profiles) == {}
    after = change_option(OTHER_NC)
    with after.database.connect() as connection:
        assert count_stale(connection, after.settings.profiles) == {NAME: 2}
        assert find_stale_partitions(connection, after.settings.profiles) == {"Travis": [frame_of(key).partition for key in NC]}
        assert find_stale_partitions(connection, after.settings.profiles, "Bastrop_USDA_1958_frames") == {}
    status = collect(after.settings)
    assert [collection.stale for collection in status.collections] == [2] and not status.collections[0].is_complete
    assert any(
        "2 made under an earlier profile: `ls4 rematerialize --stale Travis_USDA_1958_frames`" in line
        for line in format_status(status)
    )

    before = products(after)
    runs = rematerialize_stale(after)
    assert len(runs) == 2 and all(run.success for run in runs)
    now = products(after)
    assert {id_ for id_ in now if now[id_] != before[id_]} == {frame_of(key).id for key in NC}
    for key in NC:
        old, new = before[frame_of(key).id], now[frame_of(key).id]
        assert isinstance(old, dict) and isinstance(new, dict)
        assert {step for step in STEPS if old[step] != new[step]} == {"cog"}, "deflate tif and overviews are still valid"
    with after.database.connect() as connection:
        assert find_stale_profiles(connection, after.settings.profiles) == []
    assert launch_stale_backfills(after.instance, after.settings) == []


def test_fresh_frame_in_the_selection_is_not_rebuilt(platform: Platform, change_option: ChangeOption) -> None:
    """All frames of a collection are selected in the Dagster UI, with the tag ls4/only: stale."""
    before = products(platform)
    after = change_option(OTHER_NC)
    selection = [keys.product("Travis", step) for step in STEPS]
    for key in (BW[0], NC[0]):
        assert after.run(selection, partition_key=frame_of(key).partition, tags={keys.ONLY_TAG: keys.STALE}).success
    now = products(after)
    assert {id_ for id_ in now if now[id_] != before[id_]} == {frame_of(NC[0]).id}
    assert after.run(selection, partition_key=frame_of(BW[0]).partition).success
    assert products(after)[frame_of(BW[0]).id] != before[frame_of(BW[0]).id], "without the tag every selected frame is rebuilt"


def test_expired_intermediate_is_rebuilt_from_the_georef_tif(platform: Platform) -> None:
    frame = frame_of(BW[0])
    (before,) = platform.rows("SELECT served_key FROM ls4.frame WHERE id = :id", id=frame.id)
    cog = platform.storage.read(str(before["served_key"]))
    for key in (frame.deflate_key, frame.overviews_key):
        platform.storage.delete(key)
    with platform.database.connect() as connection:
        assert count_stale(connection, platform.settings.profiles) == {}
    assert platform.ingest() == [], "an expired intermediate needs no run"
    assert platform.run([keys.product("Travis", "cog")], partition_key=frame.partition).success
    (row,) = platform.rows("SELECT served_key FROM ls4.frame WHERE id = :id", id=frame.id)
    assert platform.storage.read(str(row["served_key"])) == cog
    assert platform.storage.head(frame.deflate_key) is None, "an asset that was not selected stays expired"
    assert platform.state(BW[0]) == ("done", None)


def test_adopted_cog_has_no_profile_and_is_not_stale(platform: Platform, change_option: ChangeOption) -> None:
    with platform.database.connect() as connection:
        adopted = "UPDATE ls4.frame SET products = jsonb_set(products, '{cog,profile}', '\"adopted\"') WHERE id = :id"
        connection.exec_driver_sql(adopted.replace(":id", f"'{frame_of(BW[0]).id}'"))
        assert count_stale(connection, change_option(OTHER_BW).settings.profiles) == {NAME: 1}
