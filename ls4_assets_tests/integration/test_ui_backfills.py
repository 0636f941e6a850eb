"""The clicks in the Dagster UI that would make the archive again, in Chromium and on the real webserver: each makes nothing."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ls4_assets.assets import keys
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.reconcile.run import Reconciler
from ls4_assets.runtime.backfills import BackfillStatus
from ls4_assets_tests.dagster_ui import browser_tab, running_ui
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

SURVEYS = ("USDA_1958", "USDA_1966")
EMPTY = "bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-101.tif"


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two collections of Travis with a frame each, and a county with one that fails."""
    folder = tmp_path_factory.mktemp("platform")
    with running_platform(cluster, folder) as running:
        for survey in SURVEYS:
            key = f"bw/Travis/{survey}/frames/georef/02-08-60_6-101.tif"
            running.drop(key, write_tif(folder / "good.tif", photograph(64, 64)))
        running.drop(EMPTY, b"%PDF-1.7")
        running.settle()
        yield running


@pytest.fixture(scope="module")
def address(platform: Platform) -> Iterator[str]:
    with running_ui(platform, LS4_BACKFILL_CONFIRM_FRAMES="1") as address:
        yield address


@pytest.fixture
def tab() -> Iterator[Any]:
    with browser_tab() as tab:
        yield tab


def open_dialog(tab: Any, address: str, asset: str) -> None:
    """*Materialize* on the page of an asset."""
    tab.goto(f"{address}/assets/{asset}?view=partitions")
    tab.get_by_role("button", name="Materialize").first.click()
    selection, confirm = tab.get_by_text("Partition selection"), tab.get_by_role("button", name="Confirm")
    selection.or_(confirm).first.wait_for()
    if confirm.is_visible():  # the upstream asset has no materialization
        confirm.click()
    selection.wait_for()


def choose(tab: Any, partitions: str) -> Any:
    """The button that launches the selection of *All* or *Missing*."""
    tab.get_by_text(partitions, exact=True).last.click()
    return tab.get_by_role("button", name="Launch").last


def error_of(tab: Any) -> str:
    """What the UI shows after *View error*."""
    tab.get_by_text("View error").click()
    tab.get_by_role("button", name="Copy error").or_(tab.get_by_text("Copy error")).first.wait_for()
    return str(tab.inner_text("body"))


def started(platform: Platform) -> int:
    return len(platform.instance.get_backfills(status=BackfillStatus.REQUESTED))


def test_materialize_all_ends_with_a_sentence(platform: Platform, address: str, tab: Any) -> None:
    """Two clicks on the global lineage made every frame of the archive again."""
    tab.goto(f"{address}/asset-groups")
    tab.get_by_role("button", name="Materialize all").first.click()
    tab.get_by_role("button", name="Launch backfill").click()
    assert "frames again, more than the 1 of LS4_BACKFILL_CONFIRM_FRAMES. Select fewer partitions" in error_of(tab)
    assert started(platform) == 0


def test_the_same_backfill_again_ends_with_a_sentence(platform: Platform, address: str, tab: Any) -> None:
    """The second click made everything twice."""
    for _ in range(2):
        open_dialog(tab, address, "Travis/tile_index")
        choose(tab, "All").click()
        tab.get_by_text("View error").or_(tab.get_by_text("Created backfill")).first.wait_for()
        tab.wait_for_timeout(500)
    assert "makes the same partitions and has not ended. Follow it, or cancel it first." in error_of(tab)
    assert started(platform) == 1


def test_nothing_is_missing_after_a_restore(platform: Platform, address: str, tab: Any) -> None:
    """After a wipe, *Missing* selected frames that were right, and made them again."""
    platform.instance.wipe_assets([keys.product("Travis", "cog")])
    open_dialog(tab, address, "Travis/cog")
    assert choose(tab, "Missing").is_enabled()
    list(Reconciler(platform.archive, platform.instance, apply=True, grace_period=timedelta(0)).run())
    open_dialog(tab, address, "Travis/cog")
    assert choose(tab, "Missing").is_disabled()


def test_all_of_an_empty_county_launches_nothing(platform: Platform, address: str, tab: Any) -> None:
    """*All* on an empty county ended with Dagster's CheckError. The UI shows the county until the next reload."""
    platform.storage.delete(EMPTY)
    platform.settle()
    platform.settle()
    before = started(platform)
    open_dialog(tab, address, "Bastrop/cog")
    launch = choose(tab, "All")
    if launch.is_enabled():
        launch.click()
        assert "The selection has no partition, so there is nothing to make." in error_of(tab)
    assert started(platform) == before
