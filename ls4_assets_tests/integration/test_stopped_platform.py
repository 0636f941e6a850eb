"""A demo whose daemon hangs, or another service has crashed: what people see and get, also when it is over."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ls4_assets.local.state import find_free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHROMIUM = Path("/usr/bin/chromium")
LS4 = str(Path(sys.executable).parent / "ls4")


@dataclass
class Demo:
    """A running demo, and the environment of commands about it."""

    state: Path
    url: str
    environment: dict[str, str]
    supervisor: psutil.Process

    def check(self) -> tuple[int, str]:
        """Exit status and output of `ls4 status --check`."""
        command = [LS4, "status", "--check"]
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        return result.returncode, result.stdout

    def processes(self, name: str) -> list[psutil.Process]:
        """Those of a program that belong to this demo."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if name in line and str(self.state) in line:
                found.append(process)
        return found

    @property
    def messages(self) -> str:
        file = self.state / "logs" / "notifications.txt"
        return file.read_text() if file.exists() else ""

    def status(self) -> dict[str, Any]:
        """What the pages of staff read; nothing while there is none."""
        response = httpx.get(f"{self.url}/status.json", trust_env=False)
        return dict(response.json()) if response.status_code == 200 else {"status": None}

    def metrics(self) -> dict[tuple[str, str], float]:
        response = httpx.get(f"{self.url}/metrics", trust_env=False)
        response.raise_for_status()
        return {
            (sample.name, ",".join(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    # Directly under the temporary directory: the users of the services cannot enter pytest's own folders.
    state = Path(tempfile.mkdtemp(prefix="ls4-stopped-"))
    state.chmod(0o755)
    port = find_free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LS4_")}
    environment |= {"LS4_STATE": str(state)}
    log = (state / "demo.log").open("w")
    command = [LS4, "demo", "--port", str(port)]
    process = subprocess.Popen(command, env=environment | {"LS4_NOTIFY_GROUP_WAIT_SECONDS": "5"}, stdout=log)
    try:
        wait_for(lambda: "What to do next:" in (state / "demo.log").read_text(), 600)
        yield Demo(state, f"http://127.0.0.1:{port}", environment, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(60)
        log.close()
        shutil.rmtree(state)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(2)


@contextmanager
def suspended(processes: list[psutil.Process]) -> Iterator[None]:
    """A process that was killed is restarted within a second; one that hangs is not."""
    assert processes
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def first_lines(demo: Demo) -> dict[str, str]:
    """The sentence on each page, in Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        texts = {}
        for page in ("/", "/staff"):
            tab = browser.new_page()
            tab.goto(f"{demo.url}{page}")
            tab.wait_for_selector("#health:not([hidden])")
            texts[page] = tab.inner_text("#health")
        browser.close()
    return texts


def test_daemon_that_hangs_is_reported_once_and_so_is_its_recovery(demo: Demo) -> None:
    """With the daemon dead, `ls4 status` reported a healthy archive, and nobody got a message: a sensor sends the messages."""
    wait_for(lambda: demo.check()[0] == 0, 60)
    wait_for(lambda: demo.status()["status"] == "ok", 60)
    assert demo.check()[1].startswith("OK: last scan ")
    before = demo.metrics()
    assert before["ls4_health", ""] == 0 and before["ls4_map_requests_total", "answered"] > 0
    assert all(text.startswith("OK: last scan ") for text in first_lines(demo).values())
    with suspended(demo.processes("dagster-daemon")):
        wait_for(lambda: demo.check()[0] == 2, 180)
        assert demo.check()[1].startswith("CRITICAL: the daemon has not reported for ")
        wait_for(lambda: demo.status()["status"] == "critical", 60)
        wait_for(lambda: "the platform has stopped" in demo.messages, 60)
        assert all(text.startswith("CRITICAL: the daemon has not reported for ") for text in first_lines(demo).values())
        values = demo.metrics()
        assert values["ls4_health", ""] == 2 and values["ls4_condition", "ServiceDown-daemon"] == 1
    wait_for(lambda: demo.check()[0] == 0, 120)
    wait_for(lambda: "ls4: resolved: the daemon has not reported" in demo.messages, 120)
    assert demo.messages.count("ls4: the platform has stopped: ") == 1
    assert demo.status()["status"] == "ok"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("code_server", "CRITICAL: the code server does not answer"),
        ("run_server", "WARNING: the run server does not answer"),
        ("/postgres -D", "CRITICAL: the database does not answer"),
    ],
)
def test_service_that_cannot_start_is_reported(demo: Demo, name: str, sentence: str) -> None:
    """The monitor runs in the webserver's process, which must not need what it watches."""
    wait_for(lambda: demo.status()["status"] == "ok", 120)
    # It would start the service again within a second.
    with suspended([demo.supervisor]):
        (process,) = [child for child in demo.supervisor.children() if name in " ".join(child.cmdline())]
        process.kill()
        wait_for(lambda: str(demo.status().get("summary")).startswith(sentence), 60)
        severity, _, what = sentence.partition(": ")
        wait_for(lambda: severity == "WARNING" or f"the platform has stopped: {what}" in demo.messages, 60)
    wait_for(lambda: demo.status()["status"] == "ok", 120)


def test_monitor_that_hangs_is_seen_by_prometheus_and_on_the_pages(demo: Demo) -> None:
    """Values that never change would look like a healthy platform."""
    with suspended(demo.processes("ls4_assets.operations.webserver")):
        wait_for(lambda: httpx.get(f"{demo.url}/metrics", trust_env=False).status_code == 503, 180)
        assert all("CRITICAL: the monitor has not reported for 2 min." in text for text in first_lines(demo).values())
