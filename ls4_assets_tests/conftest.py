"""Fixtures that more than one test module uses: the real imagery's folder and a real PostgreSQL cluster."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ls4_assets.local.postgres import Cluster
from ls4_assets.local.state import free_port


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real imagery: data/ in LS4_SHARED, or in shared/ beside the checkout; skips where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("LS4_SHARED", beside)) / "data"
    if not folder.is_dir():
        pytest.skip("no real imagery here: LS4_SHARED names the folder above its data/")
    return folder


@contextmanager
def new_cluster() -> Iterator[Cluster]:
    """A PostgreSQL cluster that is removed at the end; ``cluster.admin_url`` leads in."""
    # straight under the temporary directory: pytest's own folders are closed to PostgreSQL's OS user
    home = Path(tempfile.mkdtemp(prefix="ls4-postgres-"))
    home.chmod(0o711)
    cluster = Cluster(
        home / "data",
        free_port(),
        secrets.token_urlsafe(16),
        "postgres" if os.geteuid() == 0 else None,
        {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"},
    )
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The session's own."""
    with new_cluster() as cluster:
        yield cluster
