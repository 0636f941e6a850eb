"""The monitor: a process that judges the platform every few seconds, for the pages of staff, Prometheus and the dead-man's alarm.

It writes files, and the web front end serves them to staff: `health.json` for the pages, `metrics.txt` for `/metrics`. So the map
server needs no connection to it, and shows by their age when the monitor itself has stopped.
"""

import json
import logging
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
from ls4_assets.runtime.instance import open_instance
from ls4_assets.settings import Settings
from resources.open import open_notifier

INTERVAL_SECONDS = 10.0
_ALARMS_FILE = "alarms.json"


class Monitor:
    """Judges the platform at each `check`. `folder`: gets the files."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._metrics = PlatformMetrics()
        hold_seconds = settings.notify_group_wait_seconds
        self._alarms = Alarms(folder / _ALARMS_FILE, open_notifier(settings), hold_seconds, settings.dagster_url)

    def check(self) -> Health:
        """Collect and judge the facts once, write the files, and send the messages that are due."""
        facts = collect_facts(self._settings)
        health = judge(facts)
        # First, because the disk of the files may be full.
        self._alarms.report(health, time.monotonic())
        if not (facts.database_error or facts.dagster_error):
            with open_instance() as instance:
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


def run_monitor(settings: Settings, folder: Path, sleep: Callable[[float], None] = time.sleep) -> None:
    """Check every INTERVAL_SECONDS until the process is stopped."""
    logs.configure(settings.log_file)
    folder.mkdir(parents=True, exist_ok=True)
    monitor = Monitor(settings, folder)
    while True:
        started = time.monotonic()
        try:
            monitor.check()
        except Exception as error:  # noqa: BLE001  # it must not stop with what it watches
            logs.emit("monitor_failed", logging.ERROR, reason=str(error) or type(error).__name__)
        sleep(max(1.0, INTERVAL_SECONDS - (time.monotonic() - started)))
