"""The shards and surveys that a code location has assets for; others come with a reload. Only these shards have runs."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import Connection

from ls4_assets import logs
from ls4_assets.db.shards_in_use import find_in_use
from ls4_assets.domain.names import Shards
from ls4_assets.runtime import run_client
from ls4_assets.runtime.reloading import request_reload
from resources.archive import Archive

# The daemon checks for new definitions every second, and then loads them. Before that it fails a request for a new asset.
FOLLOW_SECONDS = 5.0
# What only needs a page, or needs it no longer, waits this long: the surveys of a large drop come with few reloads.
_COMPARE_SECONDS = 60.0


@dataclass
class DefinedShards:
    """names: the shards. usable_at: monotonic time from which the daemon has them, too. surveys: None: nothing is compared."""

    names: frozenset[str]
    usable_at: float
    surveys: frozenset[str] | None = None
    _compare_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._compare_at = self.usable_at + _COMPARE_SECONDS

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
        """Have the definitions loaded again when a shard has come into use or, less often, when anything differs."""
        if time.monotonic() < self.usable_at:
            return
        shards = archive.settings.shards
        with archive.database.connect() as connection:
            missing = find_in_use(connection, self.names).shards & shards.keys()
            different = missing | self._compare(connection, shards)
        if not different:
            return
        if not request_reload():
            logs.emit("definitions", logging.WARNING, state="not reloadable", shards=sorted(different))
            return
        logs.emit("definitions", state="reloading", shards=sorted(different))
        if missing and (path := run_client.server_socket()):
            run_client.prepare(path, missing)

    def _compare(self, connection: Connection, shards: Shards) -> frozenset[str]:
        """The shards and surveys that have come into use or hold nothing any more."""
        if self.surveys is None or time.monotonic() < self._compare_at:
            return frozenset()
        self._compare_at = time.monotonic() + _COMPARE_SECONDS
        in_use = find_in_use(connection)
        # A shard that was removed from the archive file has no assets.
        return (in_use.shards & shards.keys()) ^ self.names | in_use.surveys ^ self.surveys
