"""After a change of profile: exactly the frames made with the old one are stale, and one backfill brings them up to date."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from affine import Affine
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from ls4_assets.assets import keys
from ls4_assets.cli.rematerialize import launch_stale
from ls4_assets.db.stale import count_stale, stale_partitions, stale_profiles
from ls4_assets.domain.names import STEPS, Step
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect, lines
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

BW = [f"bw/Travis/USDA_1958/frames/georef/02-08-60_6-10{number}.tif" for number in range(2)]
NC = [f"nc/Travis/USDA_1958/frames/georef/02-08-60_7-10{number}.tif" for number in range(2)]
NAME = "Travis_USDA_1958_frames"
OTHER_NC = ("LS4_PROFILES__NC__JPEG_QUALITY", "70")
OTHER_BW = ("LS4_PROFILES__BW__OVERVIEW_RESAMPLING", "bilinear")


@pytest.fixture(scope="module")
def made(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    with running_platform(cluster, folder) as running:
        for number, key in enumerate([*BW, *NC]):
            drop(running, folder, key, number)
        running.settle()
        yield running


@pytest.fixture
def platform(made: Platform) -> Iterator[Platform]:
    """Two frames a band, of the profiles as shipped; whatever a test made of them is set right behind it."""
    yield made
    made.look()
    bring_up_to_date(made)


def drop(platform: Platform, folder: Path, key: str, seed: int) -> None:
    place = Affine(1, 0, -10_880_000.0 + 700 * seed, 0, -1, 3_540_000.0)
    bands = 1 if key.startswith("bw") else 3
    platform.drop(key, write_tif(folder / f"{seed}.tif", photograph(600, 640, bands, seed), transform=place))


Change = Callable[[tuple[str, str]], Platform]


@pytest.fixture
def change(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Change:
    """The platform after the operator changed an option of a profile and restarted it."""

    def changed(option: tuple[str, str]) -> Platform:
        monkeypatch.setenv(*option)
        return platform.with_settings()

    return changed


def products(platform: Platform) -> dict[str, object]:
    return {str(row["id"]): row["products"] for row in platform.rows("SELECT id, products FROM ls4.frame")}


def in_dagit(platform: Platform, key: str, step: Step) -> StaleStatus:
    """What the Dagster UI shows of a frame that is opened."""
    graph = platform.definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(platform.instance, graph, LoadingContextForTest(platform.instance))
    return resolver.get_status(keys.product("Travis", step), frame_of(key).partition)


def bring_up_to_date(platform: Platform) -> list[dg.ExecuteInProcessResult]:
    """Launch the backfill of `ls4 rematerialize --stale`, and run what the daemon would: each partition, with its tags."""
    done = []
    for launched in launch_stale(platform.instance, platform.settings):
        backfill = platform.instance.get_backfill(launched.id)
        assert backfill is not None
        done += [platform.run(list(launched.assets), partition_key=key, tags=backfill.tags) for key in launched.partitions]
    return done


def test_dagit_agrees_for_each_frame_that_is_opened(platform: Platform, change: Change) -> None:
    for key in (BW[0], NC[0]):
        assert {in_dagit(platform, key, step) for step in STEPS} == {StaleStatus.FRESH}
    after = change(OTHER_BW)
    # Overviews and COG depend on the option, the deflate tif does not. One code version names both bands: nc is stale in the Dagster UI
    # too.
    for key in (BW[0], NC[0]):
        assert [in_dagit(after, key, step) for step in STEPS] == [StaleStatus.FRESH, StaleStatus.STALE, StaleStatus.STALE]
    bring_up_to_date(after)
    assert {in_dagit(after, BW[0], step) for step in STEPS} == {StaleStatus.FRESH}


def test_a_new_scan_makes_its_frame_stale_in_dagit_until_it_is_made(platform: Platform, tmp_path: Path) -> None:
    drop(platform, tmp_path, BW[0], 9)
    results = [platform.tick("ingest_poll") for _ in range(3)]
    assert in_dagit(platform, BW[0], "deflate") == StaleStatus.STALE
    assert in_dagit(platform, BW[1], "deflate") == StaleStatus.FRESH
    for result in results:
        platform.execute(result)
    assert {in_dagit(platform, BW[0], step) for step in STEPS} == {StaleStatus.FRESH}


def test_a_cog_made_alone_is_fresh_after_its_parents_of_an_earlier_run(platform: Platform, change: Change) -> None:
    assert platform.run([keys.product("Travis", "cog")], partition_key=frame_of(BW[0]).partition).success
    assert in_dagit(platform, BW[0], "cog") == StaleStatus.FRESH
    # Now its parent is made of other pixels: the COG depends on what is no more.
    after = change(("LS4_PROFILES__BW__DEFLATE_ZLEVEL", "3"))
    assert after.run([keys.product("Travis", "overviews")], partition_key=frame_of(BW[0]).partition).success
    assert in_dagit(after, BW[0], "cog") == StaleStatus.STALE


def test_exactly_the_frames_of_the_changed_band_are_stale_and_one_backfill_makes_them_and_no_other(
    platform: Platform, change: Change
) -> None:
    with platform.database.connect() as connection:
        assert count_stale(connection, platform.settings.profiles) == {}
    after = change(OTHER_NC)
    with after.database.connect() as connection:
        assert count_stale(connection, after.settings.profiles) == {NAME: 2}
        assert stale_partitions(connection, after.settings.profiles) == {"Travis": [frame_of(key).partition for key in NC]}
        assert stale_partitions(connection, after.settings.profiles, "Bastrop_USDA_1958_frames") == {}
    status = collect(after.settings)
    assert [one.stale for one in status.collections] == [2] and not status.collections[0].at_rest
    assert any(
        "2 made under an earlier profile: `ls4 rematerialize --stale Travis_USDA_1958_frames`" in line for line in lines(status)
    )

    before = products(after)
    runs = bring_up_to_date(after)
    assert len(runs) == 2 and all(run.success for run in runs)
    now = products(after)
    assert {id_ for id_ in now if now[id_] != before[id_]} == {frame_of(key).id for key in NC}
    for key in NC:
        was, made = before[frame_of(key).id], now[frame_of(key).id]
        assert isinstance(was, dict) and isinstance(made, dict)
        assert {step for step in STEPS if was[step] != made[step]} == {"cog"}, "deflate tif and overviews are right as they are"
    with after.database.connect() as connection:
        assert stale_profiles(connection, after.settings.profiles) == []
    assert launch_stale(after.instance, after.settings) == []


def test_a_sibling_that_was_selected_too_is_not_made_again(platform: Platform, change: Change) -> None:
    """From the Dagster UI: all frames of a collection selected, with the tag ls4/only: stale."""
    before = products(platform)
    after = change(OTHER_NC)
    selection = [keys.product("Travis", step) for step in STEPS]
    for key in (BW[0], NC[0]):
        assert after.run(selection, partition_key=frame_of(key).partition, tags={keys.ONLY_TAG: keys.STALE}).success
    now = products(after)
    assert {id_ for id_ in now if now[id_] != before[id_]} == {frame_of(NC[0]).id}
    assert after.run(selection, partition_key=frame_of(BW[0]).partition).success
    assert products(after)[frame_of(BW[0]).id] != before[frame_of(BW[0]).id], "without the tag a person gets it made anew"


def test_an_expired_intermediate_is_not_missing_but_remade_from_the_georef_tif(platform: Platform) -> None:
    frame = frame_of(BW[0])
    (before,) = platform.rows("SELECT served_key FROM ls4.frame WHERE id = :id", id=frame.id)
    made = platform.storage.read(str(before["served_key"]))
    for key in (frame.deflate_key, frame.overviews_key):
        platform.storage.delete(key)
    with platform.database.connect() as connection:
        assert count_stale(connection, platform.settings.profiles) == {}
    assert platform.look() == [], "nothing is to be done about it"
    assert platform.run([keys.product("Travis", "cog")], partition_key=frame.partition).success
    (row,) = platform.rows("SELECT served_key FROM ls4.frame WHERE id = :id", id=frame.id)
    assert platform.storage.read(str(row["served_key"])) == made
    assert platform.storage.head(frame.deflate_key) is None, "what was not asked for stays expired"
    assert platform.state(BW[0]) == ("done", None)


def test_an_adopted_cog_is_of_no_profile_and_not_stale(platform: Platform, change: Change) -> None:
    with platform.database.connect() as connection:
        adopted = "UPDATE ls4.frame SET products = jsonb_set(products, '{cog,profile}', '\"adopted\"') WHERE id = :id"
        connection.exec_driver_sql(adopted.replace(":id", f"'{frame_of(BW[0]).id}'"))
        assert count_stale(connection, change(OTHER_BW).settings.profiles) == {NAME: 1}
