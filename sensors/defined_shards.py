"""The shards and surveys that a code location has assets for. Only frames of these shards can be made; others come with a reload."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection

from ls4_assets import logs
from ls4_assets.db.shards_in_use import find_shards_in_use
from ls4_assets.db.surveys_in_use import find_surveys_in_use
from ls4_assets.runtime import run_client
from ls4_assets.runtime.reloading import request_reload
from resources.archive import Archive

# The daemon checks for new definitions every second, and then loads them. Before that it fails a request for a new asset.
FOLLOW_SECONDS = 5.0
# A survey waits this long for its page, so that the surveys of a large drop come with few reloads.
_SURVEY_SECONDS = 60.0


@dataclass(frozen=True)
class DefinedShards:
    """names: the shards. usable_at: monotonic time from which the daemon has them, too. surveys: None if they are not defined."""

    names: frozenset[str]
    usable_at: float
    surveys: frozenset[str] | None = None

    @classmethod
    def of(
        cls, names: Collection[str], surveys: Collection[str] | None = None, *, follow_seconds: float = 0.0
    ) -> "DefinedShards":
        """The shards of definitions that are built now."""
        return cls(frozenset(names), time.monotonic() + follow_seconds, None if surveys is None else frozenset(surveys))

    @property
    def usable(self) -> frozenset[str]:
        """The shards for whose assets a sensor may request runs."""
        return self.names if time.monotonic() >= self.usable_at else frozenset()

    def request_missing(self, archive: Archive) -> None:
        """Have the definitions loaded again when a shard or a survey has come into use."""
        if time.monotonic() < self.usable_at:
            return
        with archive.database.connect() as connection:
            missing = find_shards_in_use(connection, self.names) & archive.settings.shards.keys()
            surveys = self._find_missing_surveys(connection)
        if not missing | surveys:
            return
        if not request_reload():
            logs.emit("definitions", logging.WARNING, state="not reloadable", shards=sorted(missing | surveys))
            return
        logs.emit("definitions", state="reloading", shards=sorted(missing | surveys))
        if missing and (path := run_client.server_socket()):
            run_client.prepare(path, missing)

    def _find_missing_surveys(self, connection: Connection) -> set[str]:
        if self.surveys is None or time.monotonic() < self.usable_at + _SURVEY_SECONDS:
            return set()
        return find_surveys_in_use(connection, self.surveys)
