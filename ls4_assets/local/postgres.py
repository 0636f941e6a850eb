"""A private PostgreSQL cluster with PostGIS inside the state directory.

The cluster of the operating system is never used or changed: this one has its own data directory, its own port on 127.0.0.1, no
Unix socket, and scram passwords only. PostgreSQL does not run as root, so root runs it as an unprivileged OS user. Roles,
databases and grants are created by ``ls4_assets.db.bootstrap``, not here.
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
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # not a scratch folder: the mount point of POSIX shared memory
_SHARED_MEMORY_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Cluster:
    """One PostgreSQL data directory and the server that runs on it.

    The first start creates ``data_dir``; its parent must exist, and ``os_user`` must be able to enter it. ``os_user`` None is the
    current user. ``settings`` are additional lines of postgresql.conf, in its own value syntax.
    """

    data_dir: Path
    port: int
    password: str = field(repr=False)
    os_user: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def admin_url(self) -> str:
        """libpq URL of the superuser's own database; it contains the password."""
        return f"postgresql://{SUPERUSER}:{self.password}@127.0.0.1:{self.port}/postgres"

    @property
    def log(self) -> Path:
        """The log of a server that ``start`` started."""
        return self.data_dir.parent / "postgres.log"

    def command(self) -> list[str]:
        """The command of the server in the foreground, to be run as ``os_user`` after ``prepare``."""
        return [str(postgres_bin_dir() / "postgres"), "-D", str(self.data_dir)]

    def prepare(self) -> None:
        """Create the data directory if it is missing, and clean up after an unclean stop.

        Raises ConfigurationError when PostgreSQL with PostGIS is not installed or the data directory cannot be created.
        """
        if self.process() is not None:
            self.stop()
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
        if not (self.data_dir / "PG_VERSION").exists():
            self._initialize()
        self._configure()

    def start(self, timeout_seconds: float = 60) -> None:
        """Start the server in the background on its existing data, and wait until it accepts connections."""
        self.prepare()
        # created here, because the OS user cannot create files in the parent folder
        self.log.touch()
        self._chown(self.log)
        self._run("pg_ctl", "-D", self.data_dir, "-l", self.log, "-w", "-t", int(timeout_seconds), "start")

    def stop(self) -> None:
        """Stop the server, however it was started; does nothing when it is not running."""
        server = self.process()
        if server is None:
            return
        self._run("pg_ctl", "-D", self.data_dir, "-m", "fast", "-w", "-t", "60", "stop")
        # pg_ctl waits for the PID file, which disappears a moment before the process
        psutil.wait_procs([server], timeout=5)

    def process(self) -> psutil.Process | None:
        """The running postmaster of this data directory, or None.

        The PID in postmaster.pid alone proves nothing: after a reboot it may belong to any process, and PostgreSQL then does not
        start. The working directory of a postmaster is its data directory.
        """
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text().split("\n", 1)[0])
            server = psutil.Process(pid)
            return server if Path(server.cwd()) == self.data_dir.resolve() else None
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            return None

    def is_ready(self) -> bool:
        """Whether the server accepts a connection of the superuser now."""
        try:
            psycopg2.connect(self.admin_url, connect_timeout=3).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _initialize(self) -> None:
        """Run initdb next to the final path, then rename: an interrupted initdb leaves no data directory."""
        temporary = self.data_dir.with_name(self.data_dir.name + ".new")
        password_file = self.data_dir.with_name("initdb.password")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(mode=0o700)
            self._chown(temporary)
            password_file.touch(mode=0o600)
            password_file.write_text(self.password)
            self._chown(password_file)
            self._run(
                "initdb", "-D", temporary, "--username", SUPERUSER, "--pwfile", password_file,
                "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions",
            )  # fmt: skip
        finally:
            password_file.unlink(missing_ok=True)
        with (temporary / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude 'ls4.conf'  # written at every start\n")
        if self.data_dir.exists():
            self.data_dir.rmdir()
        temporary.rename(self.data_dir)

    def _configure(self) -> None:
        settings = {
            "port": str(self.port),
            "listen_addresses": "'127.0.0.1'",
            # TCP only: the path of a socket in the state directory might exceed the limit of 107 bytes.
            "unix_socket_directories": "''",
            "dynamic_shared_memory_type": "posix" if _is_shared_memory_usable() else "mmap",
            "max_connections": "200",  # Dagster opens one for each call on its instance
            "log_timezone": "'UTC'",
            "timezone": "'UTC'",
            **self.settings,
        }
        conf = self.data_dir / "ls4.conf"
        conf.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
        self._chown(conf)

    def _chown(self, path: Path) -> None:
        if self.os_user is not None:
            user = pwd.getpwnam(self.os_user)
            os.chown(path, user.pw_uid, user.pw_gid)

    def _run(self, program: str, *arguments: object) -> None:
        """Run one of PostgreSQL's programs as the OS user; raises ConfigurationError with its output when it fails."""
        # To a file, not a pipe: the server that pg_ctl leaves running would keep a pipe open forever.
        output = self.data_dir.with_name(f"{program}.log")
        with output.open("wb") as stream:
            result = subprocess.run(
                [str(postgres_bin_dir() / program), *map(str, arguments)],
                check=False, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"}, **run_as(self.os_user),
            )  # fmt: skip
        if result.returncode:
            lines = output.read_text(errors="replace").splitlines()
            if program == "pg_ctl" and self.log.exists():
                lines += self.log.read_text(errors="replace").splitlines()[-5:]
            messages = "; ".join(line.strip() for line in lines if line.strip())
            raise ConfigurationError(f"PostgreSQL's {program} failed ({messages}); fix that and start again.")
        output.unlink()


class RunAs(TypedDict, total=False):
    """The arguments of ``subprocess.Popen`` that change the OS user."""

    user: int
    group: int
    extra_groups: list[int]


def run_as(user: str | None) -> RunAs:
    """The subprocess arguments that start a child as ``user``, with that user's groups only; empty for None."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}


def postgres_bin_dir() -> Path:
    """The bin directory of the newest installed PostgreSQL that has PostGIS (Debian's and Ubuntu's layout).

    Raises ConfigurationError when none is installed.
    """
    candidates = [
        Path("/usr/lib/postgresql") / extension.parent.parent.name / "bin"
        for extension in Path("/usr/share/postgresql").glob("*/extension/postgis.control")
    ]
    installed = [path for path in candidates if (path / "initdb").exists()]
    if not installed:
        raise ConfigurationError("PostgreSQL with PostGIS is not installed on this machine: run `make install`.")
    return max(installed, key=lambda path: int(path.parent.name))


def _is_shared_memory_usable() -> bool:
    """False in many containers and chroots: they have no /dev/shm, or one too small for a parallel query."""
    try:
        file_system = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return False
    is_writable_by_all = _SHARED_MEMORY.stat().st_mode & 0o002 != 0
    has_space = file_system.f_bavail * file_system.f_frsize >= _SHARED_MEMORY_BYTES
    return _SHARED_MEMORY.is_mount() and is_writable_by_all and has_space
