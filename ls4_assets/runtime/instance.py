"""The Dagster instance of this process."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import dagster as dg
from dagster._core.errors import DagsterHomeNotSetError
from dagster._core.instance.ref import InstanceRef as InstanceReference
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, TickStatus

from ls4_assets.errors import ConfigurationError

__all__ = ["InstanceReference", "InstigatorState", "InstigatorTick", "KeptInstance", "TickStatus", "open_instance"]


def open_instance() -> dg.DagsterInstance:
    """Open the instance in DAGSTER_HOME. Raises ConfigurationError if the variable is not set."""
    try:
        return dg.DagsterInstance.get()
    except DagsterHomeNotSetError:
        raise ConfigurationError("DAGSTER_HOME is not set; set it to the folder that contains dagster.yaml.") from None


class KeptInstance:
    """An instance that stays open between its uses, until one of them fails: the next use opens another."""

    def __init__(self) -> None:
        self._instance: dg.DagsterInstance | None = None

    @contextmanager
    def use(self) -> Iterator[dg.DagsterInstance]:
        if self._instance is None:
            self._instance = open_instance()
        try:
            yield self._instance
        except Exception:
            failed, self._instance = self._instance, None
            with suppress(Exception):
                failed.dispose()
            raise
