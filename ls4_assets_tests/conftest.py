"""Fixtures for all tests: the folder of real imagery and a PostgreSQL cluster. Others are in integration/conftest.py."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import find_free_port


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real imagery: data/ in LS4_SHARED, by default shared/ next to the checkout. Skips the test if there is none."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("LS4_SHARED", default)) / "data"
    if not folder.is_dir():
        pytest.skip("no real imagery: set LS4_SHARED to the folder that contains its data/")
    return folder


@contextmanager
def new_cluster(**settings: str) -> Iterator[Cluster]:
    """A PostgreSQL cluster that is deleted at the end, with these settings. Connect with ``cluster.admin_url``."""
    # Not in pytest's own temporary folders, because PostgreSQL's OS user may not read them.
    home = Path(tempfile.mkdtemp(prefix="ls4-postgres-"))
    home.chmod(0o711)
    cluster = Cluster(
        home / "data",
        find_free_port(),
        secrets.token_urlsafe(16),
        "postgres" if os.geteuid() == 0 else None,
        {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"} | settings,
    )
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The PostgreSQL cluster of the test session."""
    with new_cluster() as cluster:
        yield cluster
