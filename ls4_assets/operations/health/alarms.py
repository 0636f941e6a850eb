"""The dead-man's alarm: messages about a platform that has stopped, once when it stops and once when it works again.

The sensor `notifications` sends all other messages, and is part of what stops. So the monitor, in another process, sends these
through the same channels, and keeps what it has sent in a file: the database may be what is down.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ls4_assets import logs
from ls4_assets.errors import NotificationError
from ls4_assets.operations.health.conditions import RULES
from ls4_assets.operations.health.files import write_file
from ls4_assets.operations.health.model import Condition, Health
from resources.notifier import Notifier

_ALARMS = {rule.name for rule in RULES if rule.is_alarm}


@dataclass
class Alarms:
    """What was sent, in `file`. `hold_seconds`: a condition that is over sooner is not reported, nor one that comes back sooner.

    Times are those of a clock that stands still while the machine sleeps (time.monotonic).
    """

    file: Path
    notifier: Notifier
    hold_seconds: float
    dagster_url: str = ""

    def __post_init__(self) -> None:
        self._sent: dict[str, str] = _read(self.file)
        self._changed_at: dict[str, float] = {}

    def report(self, health: Health, now: float) -> None:
        """Send what is due: conditions that have lasted, and that the platform works again. What is not accepted stays due.

        One condition hides others (no sensor is seen while the database is down), so nothing is resolved while any is left.
        """
        alarms = {each.key: each for each in health.conditions if each.name in _ALARMS}
        # Conditions that differ from what was sent last.
        self._changed_at = {key: self._changed_at.get(key, now) for key in alarms.keys() ^ self._sent.keys()}
        due = [key for key, since in self._changed_at.items() if now - since >= self.hold_seconds]
        opened = [alarms[key] for key in due if key in alarms]
        if opened and self._send(*_opened(opened, self.dagster_url)):
            self._sent |= {each.key: each.sentence for each in opened}
            self._save()
        resolved = [] if alarms else due
        if resolved and self._send(*_resolved([self._sent[key] for key in resolved], health)):
            self._sent = {}
            self._save()

    def _send(self, subject: str, body: str) -> bool:
        try:
            self.notifier.send(subject, body)
        except NotificationError as error:
            logs.emit("notification_failed", logging.ERROR, reason=str(error))
            return False
        return True

    def _save(self) -> None:
        write_file(self.file, json.dumps(self._sent, indent=1).encode())


def _opened(conditions: Sequence[Condition], dagster_url: str) -> tuple[str, str]:
    sentences = [f"{each.sentence[0].upper()}{each.sentence[1:]}\nWhat to do: {each.advice}" for each in conditions]
    tail = (
        "Maps stay online. What is dropped meanwhile is processed later. You get another message when the platform works again."
    )
    link = f"Dagster UI: {dagster_url}" if dagster_url else ""
    return f"ls4: the platform has stopped: {conditions[0].sentence}", "\n\n".join(filter(None, [*sentences, tail, link]))


def _resolved(sentences: Sequence[str], health: Health) -> tuple[str, str]:
    lines = "\n".join(f"  {sentence}" for sentence in sentences)
    return f"ls4: resolved: {sentences[0]}", f"This is resolved; it was reported as:\n\n{lines}\n\nNow: {health.summary}"


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError):
        return {}
