"""Fixtures for many integration tests. Modules that need a variant override them with a fixture of the same name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    """A platform with empty databases and an empty folder."""
    with running_platform(cluster, tmp_path) as running:
        yield running


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A valid photograph."""
    return write_tif(tmp_path / "good.tif", photograph(200, 220))
