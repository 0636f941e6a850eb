"""What every part of the scale benchmark stands on: a PostgreSQL cluster, an archive's folder and a Dagster home of its own.

The cluster runs with the settings of `make demo`. Each part gets fresh databases and an empty folder, and reads where they are
from the environment, as the processes of the platform do.
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

from ls4_assets.db.bootstrap import OWNED_DATABASES, ROLES, bootstrap
from ls4_assets.local.postgres import SUPERUSER, Cluster
from ls4_assets.local.state import CHECKOUT, DATABASE_USER, free_port


@dataclass(frozen=True)
class Bench:
    """`home` is a folder that goes with the benchmark."""

    home: Path
    cluster: Cluster
    passwords: dict[str, str] = field(repr=False)

    @contextmanager
    def place(self, part: str) -> Iterator[dict[str, str]]:
        """Fresh databases and an empty archive for one part, as the environment that leads there.

        Modules are kept compiled, as in the images.
        """
        self._drop_databases()
        bootstrap(self.cluster.admin_url, self.passwords)
        folder = self.home / part
        for name in ("archive", "dagster", "work"):
            (folder / name).mkdir(parents=True)
        shutil.copyfile(CHECKOUT / "dagster.yaml", folder / "dagster" / "dagster.yaml")
        left_out = ("LS4_", "DAGSTER_", "PYTHONDONTWRITEBYTECODE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        try:
            yield inherited | {
                "LS4_STORAGE": str(folder / "archive"),
                "LS4_DATABASE_URL": self._address("ls4"),
                "LS4_PUBLIC_URL": "http://maps.test/archive",
                "LS4_MAP_URL": "http://maps.test",
                "LS4_SETTLE_SECONDS": "0",
                "LS4_LOG_FILE": str(folder / "ls4.jsonl"),
                "LS4_WORK_DIR": str(folder / "work"),
                "LS4_DAGSTER_DATABASE_URL": self._address("dagster"),
                "DAGSTER_HOME": str(folder / "dagster"),
            }
        finally:
            shutil.rmtree(folder)

    def _address(self, role: str) -> str:
        return f"postgresql+psycopg2://{role}:{self.passwords[role]}@127.0.0.1:{self.cluster.port}/{role}"

    def _drop_databases(self) -> None:
        url = make_url(self.cluster.admin_url)
        with create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect() as server:
            for database in OWNED_DATABASES:
                server.execute(text(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)"))


@contextmanager
def workbench() -> Iterator[Bench]:
    """The cluster runs meanwhile; nothing of it is left."""
    # Straight under the temporary folder, where the OS user of PostgreSQL can reach it.
    home = Path(tempfile.mkdtemp(prefix="ls4-scale-"))
    home.chmod(0o711)
    passwords = {role: secrets.token_urlsafe(16) for role in (SUPERUSER, *ROLES)}
    user = DATABASE_USER if os.geteuid() == 0 else None
    cluster = Cluster(home / "postgres", free_port(), passwords[SUPERUSER], user)
    try:
        cluster.start()
        yield Bench(home, cluster, passwords)
    finally:
        cluster.stop()
        shutil.rmtree(home)


@dataclass
class Watch:
    """Seconds by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started
