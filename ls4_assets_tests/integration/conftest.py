"""Fixtures that many integration tests begin with; a module that needs them otherwise has its own of the same name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    """A whole platform on empty databases and an empty folder."""
    with running_platform(cluster, tmp_path) as running:
        yield running


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A photograph that nothing is wrong with."""
    return write_tif(tmp_path / "good.tif", photograph(200, 220))
