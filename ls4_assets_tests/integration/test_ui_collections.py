"""The collections in the Dagster UI: found by the name that people search for, with links and state."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ls4_assets.assets import keys
from ls4_assets.db.shards_in_use import InUse, load_in_use
from ls4_assets.definitions import build_definitions
from ls4_assets.local.services import returns_ok
from ls4_assets.local.state import find_free_port
from ls4_assets.runtime import reloading
from ls4_assets_tests.platform import CHECKOUT, Platform
from ls4_assets_tests.rasters import photograph, write_tif
from sensors.collection_pages import update_pages
from sensors.defined_shards import DefinedShards

CHROMIUM = "/usr/bin/chromium"
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAME = "Travis_USDA_1958_frames"


def key_of(number: int, survey: str = "USDA_1958") -> str:
    return f"bw/Travis/{survey}/frames/georef/02-08-60_6-{number}.tif"


@pytest.fixture
def published(platform: Platform, tmp_path: Path) -> Platform:
    """One collection with a frame on the map and one that failed."""
    platform.drop(key_of(1), write_tif(tmp_path / "good.tif", photograph(64, 64)))
    platform.drop(key_of(2), b"%PDF-1.7")
    platform.settle()
    return platform


def page_of(platform: Platform, key: dg.AssetKey) -> dict[str, object]:
    event = platform.instance.get_latest_materialization_event(key)
    assert event and event.asset_materialization
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


@pytest.fixture
def ui(published: Platform) -> Iterator[str]:
    """The address of the Dagster UI, started as on every deployment, with the definitions of the shards in use."""
    settings = {f"LS4_{name.upper()}": value for name, value in published.archive.overrides.items()}
    port = find_free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--module-name", "ls4_assets.definitions"]
    environment = {"PATH": os.defpath, "DAGSTER_HOME": published.instance.root_directory} | settings
    command = [sys.executable, "-m", "ls4_assets.operations.webserver", *options]
    with subprocess.Popen(command, env=environment, cwd=CHECKOUT) as server:
        try:
            for _ in range(900):
                if returns_ok(f"http://127.0.0.1:{port}/server_info"):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def test_search_finds_the_collections_of_a_survey(published: Platform, ui: str) -> None:
    """Searching the Dagster UI for USDA_1958 had no results, and empty counties were listed as healthy."""
    published.tick("notifications")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        tab.goto(ui)
        tab.get_by_role("button", name="Search").click()
        search = tab.get_by_placeholder("Search assets")
        found = tab.get_by_role("link", name="collections / USDA_1958")
        search.fill("USDA_1958")
        found.wait_for(timeout=60_000)
        search.press("Enter")
        row = tab.get_by_role("row", name=NAME)
        row.get_by_text("1 on the map, 1 failed").wait_for(timeout=60_000)
        links = {link.inner_text(): link.get_attribute("href") for link in row.get_by_role("link").all()}
        assert links["map"] == f"{published.settings.map_url}/#{NAME.lower()}"
        assert str(links["partition"]).endswith("/assets/Travis/tile_index?view=partitions&partition=USDA_1958%2Fframes")
        tab.goto(f"{ui}{str(links['partition']).removeprefix(published.settings.dagster_url)}")
        tab.get_by_text("USDA_1958/frames").first.wait_for(timeout=60_000)
        tab.goto(f"{ui}/asset-groups")
        tab.get_by_text("Travis", exact=True).first.wait_for(timeout=60_000)
        assert not tab.get_by_text("Bastrop").count()
        browser.close()


def test_only_pages_that_changed_are_stored(published: Platform, tmp_path: Path) -> None:
    assert update_pages(published.instance, published.archive) == 2
    assert update_pages(published.instance, published.archive) == 0
    page = str(page_of(published, keys.survey("USDA_1958"))[NAME])
    assert page.startswith("[map](http://maps.test/#travis_usda_1958_frames) · [partition](") and page.endswith("1 failed")
    assert "[1 collection](" in str(page_of(published, keys.COLLECTIONS)["USDA_1958"])
    published.drop(key_of(1, "USDA_1966"), write_tif(tmp_path / "good.tif", photograph(64, 64)))
    published.ingest()
    assert update_pages(published.instance, published.archive) == 2, "the page of USDA_1958 did not change"
    waiting = str(page_of(published, keys.survey("USDA_1966"))["Travis_USDA_1966_frames"])
    assert "map](" not in waiting and waiting.endswith("0 on the map, rebuild pending")


def test_page_of_a_survey_that_was_removed_is_empty(published: Platform) -> None:
    """The page of a survey went on to list collections that had been removed."""
    update_pages(published.instance, published.archive)
    for number in (1, 2):
        published.storage.delete(key_of(number))
    published.settle()
    published.rebuild()
    assert update_pages(published.instance, published.archive, ["USDA_1958"]) == 2
    assert page_of(published, keys.survey("USDA_1958")) == page_of(published, keys.COLLECTIONS) == {}


def test_definitions_follow_what_is_in_use(published: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new survey could not be found, and a county whose last frame was deleted looked healthy, until the next reload."""
    requests: list[bool] = []
    monkeypatch.setattr(reloading, "_reload", lambda: requests.append(True))
    url = published.settings.database_url.get_secret_value()
    assert load_in_use(url) == InUse(frozenset({"Travis"}), frozenset({"USDA_1958"}))

    def is_reloaded(shards: set[str], surveys: set[str] | None, age_seconds: float) -> bool:
        requests.clear()
        usable_at = time.monotonic() - age_seconds
        frozen = None if surveys is None else frozenset(surveys)
        DefinedShards(frozenset(shards), usable_at, frozen).request_missing(published.archive)
        return bool(requests)

    assert not is_reloaded({"Travis"}, {"USDA_1958"}, 61)
    assert is_reloaded({"Travis"}, set(), 61), "a new survey"
    assert not is_reloaded({"Travis"}, set(), 59), "the surveys of a drop come together"
    assert is_reloaded({"Travis"}, {"USDA_1958", "USDA_1966"}, 61), "a survey without frames"
    assert is_reloaded({"Travis", "Bastrop"}, {"USDA_1958"}, 61), "a county without frames"
    assert is_reloaded(set(), {"USDA_1958"}, 1), "a new county never waits"


def test_every_survey_has_an_asset(platform: Platform) -> None:
    definitions = build_definitions({}, platform.archive, 5, surveys={"USDA_1958", "DLK"})
    found = {spec.key for spec in definitions.resolve_all_asset_specs() if spec.group_name == "collections"}
    assert found == {keys.COLLECTIONS, keys.survey("DLK"), keys.survey("USDA_1958")}
