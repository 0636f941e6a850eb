"""Reads the JSON log that `logs` writes: which lines a person wants, and how they look in a terminal."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ls4_assets.logs import EventName

ServiceName = Literal["runs", "sensors", "code-server", "monitor", "maps", "sync"]
SERVICE_NAMES: tuple[ServiceName, ...] = get_args(ServiceName)
LEVELS = ("info", "warning", "error")
_POLL_SECONDS = 0.5
# Of these, the line's head has shown the value already.
_HEAD_FIELDS = ("time", "level", "event")

# Which service writes which event.
SERVICES: dict[EventName, ServiceName] = {
    **dict.fromkeys(("frame", "batch", "tile_index", "overview_mosaic", "mapfile", "exports"), "runs"),
    **dict.fromkeys(("not_observed", "run_process_ended", "warm_service"), "runs"),
    **dict.fromkeys(("scan", "batch_requested", "rebuild_requested", "reconciliation", "history_pruned"), "sensors"),
    **dict.fromkeys(("notification", "notification_failed"), "sensors"),
    **dict.fromkeys(("definitions", "archive_open_to_all"), "code-server"),
    "monitor_failed": "monitor",
    **dict.fromkeys(("mapserv_crashed", "mapserv_exited", "mapserv_replaced"), "maps"),
    **dict.fromkeys(("sync_heartbeat", "sync_failed", "sync_completed"), "sync"),
    **dict.fromkeys(("mapfile_published", "mapfile_removed", "mapfile_removal_delayed"), "sync"),
    **dict.fromkeys(("mapfile_rejected", "mapfile_unreadable", "mapfile_ignored"), "sync"),
}


@dataclass(frozen=True)
class LogFilter:
    """What a line must have. `collection` is the beginning of a name, in any case, `frame` a part of an id, `level` the least."""

    collection: str = ""
    service: str = ""
    frame: str = ""
    level: str = "info"

    def matches(self, line: dict[str, Any]) -> bool:
        """Whether a person asked for this line."""
        return (
            str(line.get("collection", "")).lower().startswith(self.collection.lower())
            and self.service in ("", SERVICES.get(line.get("event", "")))
            and self.frame.lower() in str(line.get("frame", "")).lower()
            and _rank(line.get("level", "")) >= _rank(self.level)
        )


def read_lines(file: Path, *, follow: bool = False) -> Iterator[str]:
    """Each complete line; with `follow` without end, also after the file was rotated."""
    log = file.open(encoding="utf-8", errors="replace")
    rest = ""
    try:
        while True:
            if text := log.readline():
                rest += text
                if rest.endswith("\n"):
                    yield rest
                    rest = ""
            elif not follow:
                return
            elif _is_replaced(file, log.fileno()):
                log.close()
                log, rest = file.open(encoding="utf-8", errors="replace"), ""
            else:
                time.sleep(_POLL_SECONDS)
    finally:
        log.close()


def parse(text: str) -> dict[str, Any] | None:
    """The fields of a line; None if it is not one of ls4."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "event" in line else None


def format_line(line: dict[str, Any]) -> str:
    """Level, time (UTC) and event, then the fields."""
    fields = [f"{name}={_format(value)}" for name, value in line.items() if name not in _HEAD_FIELDS]
    moment = str(line.get("time", ""))[:19].replace("T", " ")
    return " ".join([f"{str(line.get('level', '')).upper():<7}", moment, str(line["event"]), *fields])


def _format(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and " " in text else text


def _rank(level: str) -> int:
    # Programs may use levels that are worse than an error.
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def _is_replaced(file: Path, descriptor: int) -> bool:
    try:
        now, opened = file.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (now.st_ino, now.st_dev) != (opened.st_ino, opened.st_dev)
