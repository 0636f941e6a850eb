"""The monitor: judges the platform every few seconds, for the pages of staff, Prometheus and the dead-man's alarm.

It is a thread of the Dagster webserver's process, which has most of the modules and runs while the daemon, the code server, the
run server and the databases are down (docs/decisions/0020-monitor.md).

It writes files, and the web front end serves them to staff: `health.json` for the pages, `metrics.txt` for `/metrics`. So the map
server needs no connection to it, and shows by their age when the monitor itself has stopped.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ls4_assets import logs
from ls4_assets.domain.export_keys import HEALTH_FILE, METRICS_FILE
from ls4_assets.operations.health.alarms import Alarms
from ls4_assets.operations.health.conditions import judge
from ls4_assets.operations.health.facts import collect_facts
from ls4_assets.operations.health.files import write_file
from ls4_assets.operations.health.metrics import PlatformMetrics
from ls4_assets.operations.health.model import Facts, Health
from ls4_assets.runtime.instance import KeptInstance
from ls4_assets.settings import Settings
from resources.open import open_notifier

INTERVAL_SECONDS = 10.0
_ALARMS_FILE = "alarms.json"


class Monitor:
    """Judges the platform at each `check`. `folder`: gets the files."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._instance = KeptInstance()
        self._metrics = PlatformMetrics()
        hold_seconds = settings.notify_group_wait_seconds
        self._alarms = Alarms(folder / _ALARMS_FILE, open_notifier(settings), hold_seconds, settings.dagster_url)

    def check(self) -> Health:
        """Collect and judge the facts once, write the files, and send the messages that are due."""
        facts = collect_facts(self._settings, use_instance=self._instance.use)
        health = judge(facts)
        # First, because the disk of the files may be full.
        self._alarms.report(health, time.monotonic())
        if not (facts.database_error or facts.dagster_error):
            with self._instance.use() as instance:
                self._metrics.count_runs(instance)
        self._metrics.update(facts, health)
        write_file(self._folder / METRICS_FILE, self._metrics.render())
        write_file(self._folder / HEALTH_FILE, render_json(facts, health).encode())
        return health


def render_json(facts: Facts, health: Health) -> str:
    """What the pages of staff read."""
    conditions = [
        {"severity": each.severity.name.lower(), "sentence": each.sentence, "advice": each.advice} for each in health.conditions
    ]
    document = {
        "status": health.severity.name.lower(),
        "summary": health.summary,
        "checked_at": facts.now.isoformat(timespec="seconds"),
        "conditions": conditions,
    }
    return json.dumps(document, ensure_ascii=False)


def start_monitor(settings: Settings, folder: Path) -> None:
    """Start the thread, which ends with this process. `folder` gets the files."""
    logs.configure(settings.log_file)
    folder.mkdir(parents=True, exist_ok=True)
    threading.Thread(target=run_monitor, args=(Monitor(settings, folder),), name="monitor", daemon=True).start()


def run_monitor(monitor: Monitor, sleep: Callable[[float], None] = time.sleep) -> None:
    """Check every INTERVAL_SECONDS, forever. The first check waits as long: a platform that still starts has not stopped."""
    sleep(INTERVAL_SECONDS)
    while True:
        started = time.monotonic()
        try:
            monitor.check()
        except Exception as error:  # noqa: BLE001  # it must not stop with what it watches
            logs.emit("monitor_failed", logging.ERROR, reason=str(error) or type(error).__name__)
        sleep(max(1.0, INTERVAL_SECONDS - (time.monotonic() - started)))
