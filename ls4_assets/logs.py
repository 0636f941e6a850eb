"""Structured log lines for programs: one JSON object for each event of a run, a sensor or a map worker.

Lines go to stderr (CloudWatch on ECS; Dagster's compute logs and the service logs on one machine) and, if LS4_LOG_FILE is set, to
a file that all processes append to. Messages for people who read a run in the Dagster UI belong in `context.log`.

Every line has `time`, `level` and `event`. EVENTS lists all events; docs/reference/log-events.md is generated from it.
"""

import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Literal

import structlog
from structlog.typing import EventDict

EventName = Literal[
    "frame",
    "batch",
    "tile_index",
    "overview_mosaic",
    "mapfile",
    "exports",
    "scan",
    "batch_requested",
    "definitions",
    "run_process_ended",
    "warm_service",
    "rebuild_requested",
    "not_observed",
    "reconciliation",
    "history_pruned",
    "notification",
    "notification_failed",
    "monitor_failed",
    "archive_open_to_all",
    "mapserv_crashed",
    "mapserv_exited",
    "mapserv_replaced",
    "sync_heartbeat",
    "sync_failed",
    "sync_completed",
    "mapfile_published",
    "mapfile_removed",
    "mapfile_removal_delayed",
    "mapfile_rejected",
    "mapfile_unreadable",
    "mapfile_ignored",
]
EVENTS: dict[EventName, str] = {
    "frame": "one frame of a run: `outcome`, `reason`, seconds and bytes of each stage",
    "batch": "a run of frames: how many, how many failed, seconds",
    "tile_index": "the tile index of a collection was made, or failed and why",
    "overview_mosaic": "the overview mosaic of a collection was made, or failed and why",
    "mapfile": "the mapfile of a collection was made, or failed and why",
    "exports": "the exports of a collection were made, or failed and why",
    "scan": "what an ingest sensor found in the bucket, or why it could not list it",
    "batch_requested": "an ingest sensor requested a run of frames",
    "definitions": "the code server loads its definitions again, could not, or defines all shards, as the database was away",
    "run_process_ended": "the process of a warm run ended: its `exit_code`, and its `cpu_seconds`, without its workers",
    "warm_service": "the warm service started, stopped, lost its database or rejected a run: `state`, `reason`",
    "rebuild_requested": "a sensor, or the run that made the last frame, requested a rebuild of index and map",
    "not_observed": "the Dagster UI may not show what is stale, because the frames of a collection were not observed: `error`",
    "reconciliation": "the nightly comparison of bucket, database and Dagster: what is out of step, by kind",
    "history_pruned": "old rows of Dagster's database were deleted: how many `events`, `evaluations`, `runs` and `backfills`",
    "notification": "a message to people was sent",
    "notification_failed": "a message was not accepted; it is sent again",
    "monitor_failed": "the monitor could not finish a check, and why; the next one follows",
    "archive_open_to_all": "the disk of the archive does not support chmod: other users may change an object while ls4 writes it",
    "mapserv_crashed": "a request ended a MapServer worker: its `client` and `address`; the client waits `penalty_seconds`",
    "mapserv_exited": "a MapServer worker exited unexpectedly; it is restarted",
    "mapserv_replaced": "a MapServer worker was replaced, and why",
    "sync_heartbeat": "the mapfile sync runs; once a minute",
    "sync_failed": "the mapfile sync could not read the bucket; existing maps keep being served",
    "sync_completed": "a mapfile sync succeeded, for the first time or after a failure",
    "mapfile_published": "the mapfile sync put a file into service",
    "mapfile_removed": "the mapfile sync withdrew a file",
    "mapfile_removal_delayed": "so many files are missing in the bucket that their removal waits",
    "mapfile_rejected": "a mapfile or list in the bucket is faulty; the last good one stays",
    "mapfile_unreadable": "a file in the bucket could not be read",
    "mapfile_ignored": "an object below mapfiles/ is not a map file",
}
_LOGGER = logging.getLogger("ls4")
_LOGGER.addHandler(logging.NullHandler())


class _WatchedFile(WatchedFileHandler):
    """Follows rotation by other programs. Each line is a single write, so lines of several processes do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        # A missing folder must not fail a run: its lines are on stderr too.
        with suppress(OSError):
            super().emit(record)


def _put_time_first(_logger: object, _method: str, line: EventDict) -> EventDict:
    time = datetime.fromtimestamp(line["_record"].created, UTC).isoformat(timespec="milliseconds")
    return {"time": time, "level": line.pop("level"), **line}


def configure(file: Path | None = None) -> None:
    """Send the log lines of this process to stderr, and to `file`. Call it again to change the file.

    Nothing is written before the first call.
    """
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
        ],
        processors=[
            _put_time_first,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(sort_keys=False, default=str, ensure_ascii=False),
        ],
    )
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file:
        handlers.append(_WatchedFile(file, encoding="utf-8", delay=True))
    for previous in list(_LOGGER.handlers):
        _LOGGER.removeHandler(previous)
        previous.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False


def emit(event: EventName, level: int = logging.INFO, **fields: object) -> None:
    """Write one line. Fields with the value None are omitted."""
    _LOGGER.log(level, event, extra={field: value for field, value in fields.items() if value is not None})
