"""The Dagster instance of this process."""

import dagster as dg
from dagster._core.errors import DagsterHomeNotSetError
from dagster._core.instance.ref import InstanceRef as InstanceReference
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick, TickStatus

from ls4_assets.errors import ConfigurationError

__all__ = ["InstanceReference", "InstigatorState", "InstigatorTick", "TickStatus", "open_instance"]


def open_instance() -> dg.DagsterInstance:
    """Open the instance in DAGSTER_HOME. Raises ConfigurationError if the variable is not set."""
    try:
        return dg.DagsterInstance.get()
    except DagsterHomeNotSetError:
        raise ConfigurationError("DAGSTER_HOME is not set; set it to the folder that contains dagster.yaml.") from None
