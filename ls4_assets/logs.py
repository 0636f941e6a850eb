"""One JSON line an event, for programs: which run did what to which frame or collection, how long it took and how it ended.

Lines go to stderr (CloudWatch on ECS; the compute logs and service logs on a laptop) and, when LS4_LOG_FILE names one, to a file
that all processes append to. What people read of a run, Dagster keeps itself (`context.log`).
"""

import logging
import sys
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

import structlog
from structlog.typing import EventDict

_LOGGER = logging.getLogger("ls4")
_LOGGER.addHandler(logging.NullHandler())


class _File(WatchedFileHandler):
    """Watched, so that a rotation by others is followed; a line is one write, so that those of several processes do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        # A folder that is away costs no run: its lines are on stderr too.
        with suppress(OSError):
            super().emit(record)


def _time_first(_logger: object, _method: str, line: EventDict) -> EventDict:
    when = datetime.fromtimestamp(line["_record"].created, UTC).isoformat(timespec="milliseconds")
    return {"time": when, "level": line.pop("level"), **line}


def configure(file: Path | None = None) -> None:
    """Let this process write its lines; again for another file. Without it nothing is written."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
        ],
        processors=[
            _time_first,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(sort_keys=False, default=str, ensure_ascii=False),
        ],
    )
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file:
        handlers.append(_File(file, encoding="utf-8", delay=True))
    for old in list(_LOGGER.handlers):
        _LOGGER.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False


def event(name: str, level: int = logging.INFO, **fields: object) -> None:
    """Write one line. Fields that are None are left out."""
    _LOGGER.log(level, name, extra={field: value for field, value in fields.items() if value is not None})
