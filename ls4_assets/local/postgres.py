"""A private PostgreSQL cluster with PostGIS, inside the state directory.

The cluster of the operating system is never used nor touched: this one has its own data directory, its own
port on 127.0.0.1, no Unix socket, and scram passwords only. PostgreSQL rejects to run as root, so root lends
it to an unprivileged OS user. Roles, databases and grants are not made here but in
``ls4_assets.db.bootstrap``.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import psutil
import psycopg2

from ls4_assets.errors import ConfigurationError

SUPERUSER = "postgres"
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # not a scratch folder: where POSIX shared memory lives
_SHARED_MEMORY_NEEDED = 128 * 2**20


@dataclass(frozen=True)
class Cluster:
    """One PostgreSQL data directory and the server that runs on it.

    ``data_dir`` is made by the first start; its parent must exist and ``os_user`` must be able to reach it.
    ``os_user`` is None for "whoever I am". ``settings`` are further lines of postgresql.conf, in its own
    value syntax.
    """

    data_dir: Path
    port: int
    password: str = field(repr=False)
    os_user: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def admin_url(self) -> str:
        """libpq address of the superuser's own database; it holds the password."""
        return f"postgresql://{SUPERUSER}:{self.password}@127.0.0.1:{self.port}/postgres"

    @property
    def log(self) -> Path:
        """The server's log, when ``start`` started it."""
        return self.data_dir.parent / "postgres.log"

    def command(self) -> list[str]:
        """The server in the foreground, to be run as ``os_user`` after ``prepare``."""
        return [str(binaries() / "postgres"), "-D", str(self.data_dir)]

    def prepare(self) -> None:
        """Make the data directory if there is none, and clear what an unclean stop left behind.

        Raises ConfigurationError when PostgreSQL with PostGIS is not installed or the data directory cannot
        be made.
        """
        if self.process() is not None:
            self.stop()
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
        if not (self.data_dir / "PG_VERSION").exists():
            self._initialise()
        self._configure()

    def start(self, timeout: float = 60) -> None:
        """Start the server in the background, with the data it has, and wait until it answers."""
        self.prepare()
        # made here, because the OS user cannot make files in the parent folder
        self.log.touch()
        self._give(self.log)
        self._run("pg_ctl", "-D", self.data_dir, "-l", self.log, "-w", "-t", int(timeout), "start")

    def stop(self) -> None:
        """Stop the server, whoever started it; nothing happens when it is not running."""
        server = self.process()
        if server is None:
            return
        self._run("pg_ctl", "-D", self.data_dir, "-m", "fast", "-w", "-t", "60", "stop")
        # pg_ctl watches the pid file, which goes a moment before the process does
        psutil.wait_procs([server], timeout=5)

    def process(self) -> psutil.Process | None:
        """The running postmaster of this data directory, or None.

        The number in postmaster.pid alone proves nothing: after a reboot it may belong to anything, and
        PostgreSQL itself then rejects to start. A postmaster's working directory is its data directory.
        """
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
            server = psutil.Process(pid)
            return server if Path(server.cwd()) == self.data_dir.resolve() else None
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            return None

    def ready(self) -> bool:
        """Whether the server takes a connection of the superuser now."""
        try:
            psycopg2.connect(self.admin_url, connect_timeout=3).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        """initdb beside the final place, then rename: an interrupted initdb never looks like a cluster."""
        fresh = self.data_dir.with_name(self.data_dir.name + ".new")
        password_file = self.data_dir.with_name("initdb.password")
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            fresh.mkdir(mode=0o700)
            self._give(fresh)
            password_file.touch(mode=0o600)
            password_file.write_text(self.password)
            self._give(password_file)
            self._run(
                "initdb", "-D", fresh, "--username", SUPERUSER, "--pwfile", password_file,
                "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions",
            )  # fmt: skip
        finally:
            password_file.unlink(missing_ok=True)
        with (fresh / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude 'ls4.conf'  # written at every start\n")
        if self.data_dir.exists():
            self.data_dir.rmdir()
        fresh.rename(self.data_dir)

    def _configure(self) -> None:
        settings = {
            "port": str(self.port),
            "listen_addresses": "'127.0.0.1'",
            # One way in, and the state directory's path need not fit into a socket's 107 bytes.
            "unix_socket_directories": "''",
            "dynamic_shared_memory_type": "posix" if _shared_memory_is_usable() else "mmap",
            "max_connections": "200",  # Dagster opens one for each call on its instance
            "log_timezone": "'UTC'",
            "timezone": "'UTC'",
            **self.settings,
        }
        conf = self.data_dir / "ls4.conf"
        conf.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        self._give(conf)

    def _give(self, path: Path) -> None:
        if self.os_user is not None:
            user = pwd.getpwnam(self.os_user)
            os.chown(path, user.pw_uid, user.pw_gid)

    def _run(self, program: str, *arguments: object) -> None:
        """Run one of PostgreSQL's programs as the OS user; raises ConfigurationError with what it printed."""
        # To a file, not a pipe: the server that pg_ctl leaves running would hold a pipe open for ever.
        output = self.data_dir.with_name(f"{program}.log")
        with output.open("wb") as stream:
            done = subprocess.run(
                [str(binaries() / program), *map(str, arguments)],
                check=False, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"}, **run_as(self.os_user),
            )  # fmt: skip
        if done.returncode:
            lines = output.read_text(errors="replace").splitlines()
            if program == "pg_ctl" and self.log.exists():
                lines += self.log.read_text(errors="replace").splitlines()[-5:]
            said = "; ".join(line.strip() for line in lines if line.strip())
            raise ConfigurationError(f"PostgreSQL's {program} failed ({said}); mend that and start again.")
        output.unlink()


class RunAs(TypedDict, total=False):
    """The arguments of ``subprocess.Popen`` that change the OS user."""

    user: int
    group: int
    extra_groups: list[int]


def run_as(user: str | None) -> RunAs:
    """The subprocess arguments that start a child as ``user`` with its own groups only; none for None."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}


def binaries() -> Path:
    """The bin directory of the newest installed PostgreSQL that has PostGIS (Debian's and Ubuntu's layout).

    Raises ConfigurationError when there is none.
    """
    found = [
        Path("/usr/lib/postgresql") / extension.parent.parent.name / "bin"
        for extension in Path("/usr/share/postgresql").glob("*/extension/postgis.control")
    ]
    installed = [path for path in found if (path / "initdb").exists()]
    if not installed:
        raise ConfigurationError("PostgreSQL with PostGIS is not installed here: run `make install`.")
    return max(installed, key=lambda path: int(path.parent.name))


def _shared_memory_is_usable() -> bool:
    """Containers and chroots often have no /dev/shm, or one so small that a parallel query fails in it."""
    try:
        room = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return False
    writable_by_all = _SHARED_MEMORY.stat().st_mode & 0o002 != 0
    roomy = room.f_bavail * room.f_frsize >= _SHARED_MEMORY_NEEDED
    return _SHARED_MEMORY.is_mount() and writable_by_all and roomy
