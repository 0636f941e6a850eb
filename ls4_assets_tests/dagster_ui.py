"""The Dagster UI of a platform, as every deployment starts it, and a browser, for tests that click in it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ls4_assets.local.services import returns_ok
from ls4_assets.local.state import find_free_port
from ls4_assets_tests.platform import CHECKOUT, Platform

CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def running_ui(platform: Platform, **environment: str) -> Iterator[str]:
    """The address of the webserver, with the definitions of the shards in use. `environment`: more settings."""
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    home = platform.instance.root_directory
    port = find_free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--module-name", "ls4_assets.definitions"]
    command = [sys.executable, "-m", "ls4_assets.operations.webserver", *options]
    variables = {"PATH": os.defpath, "DAGSTER_HOME": home} | settings | environment
    with subprocess.Popen(command, env=variables, cwd=CHECKOUT) as server:
        try:
            for _ in range(900):
                if returns_ok(f"http://127.0.0.1:{port}/server_info"):
                    break
                time.sleep(0.1)
            # Dagster's dialog for newcomers, once for each installation, would lie above the page.
            httpx.post(f"http://127.0.0.1:{port}/graphql", json={"query": "mutation { setNuxSeen }"}).raise_for_status()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@contextmanager
def browser_tab() -> Iterator[Any]:
    """A tab of Chromium. Skips the test on a machine without it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed: run `deploy/install.sh tests`")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(30_000)
        yield page
        browser.close()
