"""The Dagster instance of this machine."""

import dagster as dg
from dagster._core.errors import DagsterHomeNotSetError

from ls4_assets.errors import ConfigurationError


def open_instance() -> dg.DagsterInstance:
    """The instance that DAGSTER_HOME names. Raises ConfigurationError."""
    try:
        return dg.DagsterInstance.get()
    except DagsterHomeNotSetError:
        raise ConfigurationError("DAGSTER_HOME is not set; set it to the folder of the instance's dagster.yaml.") from None
