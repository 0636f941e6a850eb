"""How many clicks people need in the Dagster UI, in Chromium and on the real webserver, with the definitions loaded."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from ls4_assets.local.postgres import Cluster
from ls4_assets.local.services import returns_ok
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.platform import CHECKOUT, SHARDS, Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
FOLDER = "bw/Travis/USDA_1958/frames/georef"
GOOD, BAD = f"{FOLDER}/02-08-60_6-101.tif", f"{FOLDER}/02-08-60_6-102.tif"
REASON = "02-08-60_6-102.tif is not a tif despite its name"
MAP = "http://maps.test/#travis_usda_1958_frames?frame=bw/02-08-60_6-101"


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A frame on the map, and one that is not a tif."""
    folder = tmp_path_factory.mktemp("platform")
    with running_platform(cluster, folder) as running:
        running.drop(GOOD, write_tif(folder / "good.tif", photograph(200, 220)))
        running.drop(BAD, b"%PDF-1.7")
        running.settle()
        (folder / "archive.toml").write_text(
            "\n".join(f"{kind} = {[name for name in SHARDS if SHARDS[name] == kind]}" for kind in set(SHARDS.values()))
        )
        running.tick("notifications")
        yield running


@pytest.fixture(scope="module")
def address(platform: Platform) -> Iterator[str]:
    """The webserver with the definitions of the platform."""
    home = Path(platform.instance.root_directory)
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    environment = os.environ | settings | {"DAGSTER_HOME": str(home), "LS4_ARCHIVE_FILE": str(home.parent / "archive.toml")}
    port = find_free_port()
    program = [sys.executable, "-m", "ls4_assets.operations.webserver", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([*program, "-m", "ls4_assets.definitions"], env=environment, cwd=CHECKOUT) as process:
        try:
            for _ in range(900):
                if returns_ok(f"http://127.0.0.1:{port}/server_info"):
                    break
                time.sleep(0.1)
            # Dagster's dialog for newcomers, once for each installation, would lie above the page.
            httpx.post(f"http://127.0.0.1:{port}/graphql", json={"query": "mutation { setNuxSeen }"}).raise_for_status()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


class Person:
    """A browser tab whose clicks are counted."""

    def __init__(self, page: Any) -> None:
        self.page, self.clicks = page, 0

    def click(self, target: Any) -> None:
        target.click()
        self.clicks += 1


@pytest.fixture
def person() -> Iterator[Person]:
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed: run `deploy/install.sh tests`")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(30_000)
        yield Person(page)
        browser.close()


def partition_page(address: str, asset: str, key: str) -> str:
    return f"{address}/assets/Travis/{asset}?view=partitions&partition={quote(frame_of(key).partition, safe='')}"


def test_reason_of_a_failed_frame_is_two_clicks_from_the_home_page(person: Person, address: str, platform: Platform) -> None:
    """Six clicks led to the sentence."""
    (failed,) = [run for run in platform.instance.get_runs() if run.is_failure]
    person.page.goto(f"{address}/")
    person.click(person.page.locator('a[href="/runs"]').first)
    person.click(person.page.get_by_role("link", name=failed.run_id[:8]).first)
    person.page.get_by_text(REASON).first.wait_for()
    assert person.clicks == 2


def test_page_of_a_failed_frame_shows_the_reason_without_a_click(person: Person, address: str) -> None:
    """It had "No metadata entries"."""
    person.page.goto(partition_page(address, "cog", BAD))
    person.page.get_by_role("cell", name=REASON).first.wait_for()
    assert person.page.get_by_text("No metadata entries").count() == 0


def test_page_of_a_rejected_tif_says_so(person: Person, address: str) -> None:
    """The partition of georef was green, without a word of the rejection."""
    person.page.goto(partition_page(address, "georef", BAD))
    person.page.get_by_text("source_version").first.wait_for()
    person.page.get_by_text(REASON).first.wait_for()


def test_map_of_a_good_frame_is_one_click_from_its_page(person: Person, address: str) -> None:
    """There was no link to the map."""
    person.page.context.route("http://maps.test/**", lambda route: route.fulfill(body="the map"))
    person.page.goto(partition_page(address, "cog", GOOD))
    link = person.page.locator(f'a[href="{MAP}"]').first
    link.wait_for()
    assert link.bounding_box()["y"] < 900, "below the fold"
    with person.page.context.expect_page() as opened:
        person.click(link)
    assert (opened.value.url, person.clicks) == (MAP, 1)


def test_reasons_of_rejected_files_are_not_cut(person: Person, address: str) -> None:
    """The table was wider than the page of rejected_files, which cut the reasons off."""
    person.page.goto(f"{address}/assets/rejected_files")
    reason = person.page.get_by_text(REASON).first
    reason.wait_for()
    box = reason.bounding_box()
    panel = person.page.get_by_text("Filter metadata keys").or_(person.page.get_by_placeholder("Filter metadata keys"))
    left = panel.first.bounding_box()["x"]
    assert left < box["x"] and box["x"] + box["width"] < 1030, "wider than the column of the metadata"
