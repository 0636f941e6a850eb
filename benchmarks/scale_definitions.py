"""Dagster's definitions of the shards that are in use, for benchmarks that fill their archive themselves."""

import time

import dagster as dg

from ls4_assets.definitions import _load, defs
from sensors.defined_shards import FOLLOW_SECONDS


def load_definitions() -> dg.Definitions:
    """Load them again, as the code server does when a shard has come into use, and wait until the sensors request runs of it."""
    _load.cache_clear()
    definitions = defs()
    time.sleep(FOLLOW_SECONDS)
    return definitions
