"""The shards that a code location has assets for. Only their frames can be made; another one comes with a reload."""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass

from ls4_assets import logs
from ls4_assets.db.shards_in_use import find_shards_in_use
from ls4_assets.runtime import run_client
from ls4_assets.runtime.reloading import request_reload
from resources.archive import Archive

# The daemon checks for new definitions every second, and then loads them. Before that it fails a request for a new asset.
FOLLOW_SECONDS = 5.0


@dataclass(frozen=True)
class DefinedShards:
    """names: the shards. usable_at: monotonic time from which the daemon has them, too."""

    names: frozenset[str]
    usable_at: float

    @classmethod
    def of(cls, names: Collection[str], *, follow_seconds: float = 0.0) -> "DefinedShards":
        """The shards of definitions that are built now."""
        return cls(frozenset(names), time.monotonic() + follow_seconds)

    @property
    def usable(self) -> frozenset[str]:
        """The shards for whose assets a sensor may request runs."""
        return self.names if time.monotonic() >= self.usable_at else frozenset()

    def request_missing(self, archive: Archive) -> None:
        """Have the definitions loaded again when a shard has come into use."""
        if time.monotonic() < self.usable_at:
            return
        with archive.database.connect() as connection:
            missing = find_shards_in_use(connection, self.names) & archive.settings.shards.keys()
        if not missing:
            return
        if not request_reload():
            logs.emit("definitions", logging.WARNING, state="not reloadable", shards=sorted(missing))
            return
        logs.emit("definitions", state="reloading", shards=sorted(missing))
        if path := run_client.server_socket():
            run_client.prepare(path, missing)
