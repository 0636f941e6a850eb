"""The environment of the scale benchmark: a PostgreSQL cluster, an archive folder and a Dagster home of its own.

The cluster has the settings of `make demo`. Each part gets fresh databases and an empty folder, which it finds through
environment variables, as the processes of the platform do.
"""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import NullPool, create_engine, make_url, text

from ls4_assets.db.bootstrap import OWNED_DATABASES, bootstrap
from ls4_assets.db.roles import ROLES
from ls4_assets.local.postgres import SUPERUSER, Cluster
from ls4_assets.local.state import CHECKOUT, DATABASE_USER, find_free_port


@dataclass(frozen=True)
class BenchmarkEnvironment:
    """The cluster, and `home`, a folder that is removed at the end."""

    home: Path
    cluster: Cluster
    passwords: dict[str, str] = field(repr=False)

    @contextmanager
    def fresh_archive(self, part: str) -> Iterator[dict[str, str]]:
        """Create fresh databases and an empty archive for one part; yields the environment variables of its process.

        Compiled modules are cached, as in the images.
        """
        self._drop_databases()
        bootstrap(self.cluster.admin_url, self.passwords)
        folder = self.home / part
        for name in ("archive", "dagster", "work"):
            (folder / name).mkdir(parents=True)
        shutil.copyfile(CHECKOUT / "dagster.yaml", folder / "dagster" / "dagster.yaml")
        excluded = ("LS4_", "DAGSTER_", "PYTHONDONTWRITEBYTECODE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(excluded)}
        try:
            yield inherited | {
                "LS4_STORAGE": str(folder / "archive"),
                "LS4_DATABASE_URL": self._database_url("ls4"),
                "LS4_PUBLIC_URL": "http://maps.test/archive",
                "LS4_MAP_URL": "http://maps.test",
                "LS4_SETTLE_SECONDS": "0",
                "LS4_LOG_FILE": str(folder / "ls4.jsonl"),
                "LS4_WORK_DIR": str(folder / "work"),
                "LS4_DAGSTER_DATABASE_URL": self._database_url("dagster"),
                "DAGSTER_HOME": str(folder / "dagster"),
            }
        finally:
            shutil.rmtree(folder)

    def _database_url(self, role: str) -> str:
        return f"postgresql+psycopg2://{role}:{self.passwords[role]}@127.0.0.1:{self.cluster.port}/{role}"

    def _drop_databases(self) -> None:
        url = make_url(self.cluster.admin_url)
        with create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect() as server:
            for database in OWNED_DATABASES:
                server.execute(text(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)"))


@contextmanager
def benchmark_environment() -> Iterator[BenchmarkEnvironment]:
    """Run a cluster, and remove all its files at the end."""
    # Directly under the temporary folder, which the OS user of PostgreSQL can enter.
    home = Path(tempfile.mkdtemp(prefix="ls4-scale-"))
    home.chmod(0o711)
    passwords = {role: secrets.token_urlsafe(16) for role in (SUPERUSER, *ROLES)}
    user = DATABASE_USER if os.geteuid() == 0 else None
    cluster = Cluster(home / "postgres", find_free_port(), passwords[SUPERUSER], user)
    try:
        cluster.start()
        yield BenchmarkEnvironment(home, cluster, passwords)
    finally:
        cluster.stop()
        shutil.rmtree(home)


@dataclass
class Stopwatch:
    """The seconds spent on each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
