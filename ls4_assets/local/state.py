"""The state directory of one machine: its folders, ports, passwords and lock.

The state directory is ``.ls4`` in the checkout, or the folder that LS4_STATE names. Root runs PostgreSQL and the map server as
unprivileged OS users, which must be able to enter the directory. Where a parent folder of the checkout is closed to them, the
state goes to /var/lib/ls4 instead. Everything here can be deleted while nothing runs; the next start creates it again.
"""

import errno
import fcntl
import json
import os
import pwd
import secrets
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ls4_assets.errors import ConfigurationError
from ls4_assets.local.postgres import run_as

DATABASE_USER = "postgres"
WEB_USER = "www-data"
FALLBACK_HOME = Path("/var/lib/ls4")
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class StateDirectory:
    """The state directory, and the OS users that root runs services as (None: the current user)."""

    home: Path
    database_user: str | None = None
    web_user: str | None = None

    @property
    def archive(self) -> Path:
        """The bucket: the folder that staff drop scans into."""
        return self.home / "archive"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def postgres(self) -> Path:
        """The folder of the database cluster."""
        return self.home / "postgres"

    @property
    def dagster(self) -> Path:
        """DAGSTER_HOME."""
        return self.home / "dagster"

    @property
    def serving(self) -> Path:
        """The run directory of MapServer and nginx."""
        return self.home / "serving"

    @property
    def monitor(self) -> Path:
        """What the monitor writes, and the web front end shows to staff."""
        return self.home / "monitor"

    @property
    def work(self) -> Path:
        """Scratch space of the runs; emptied at each start, because a killed run leaves its files."""
        return self.home / "work"

    def create(self) -> None:
        """Create the folders: readable for the services, writable for the owner only."""
        for folder in (self.home, self.archive, self.logs, self.postgres, self.dagster, self.serving, self.monitor):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            folder.chmod(0o755)  # independent of the umask

    def allocate_ports(self, names: Iterable[str], fixed: Mapping[str, int] | None = None) -> dict[str, int]:
        """A port on 127.0.0.1 for each name: the port of the last start while it is free, so that addresses stay the same.

        Raises ConfigurationError when a port in ``fixed`` is taken.
        """
        file = self.home / "ports.json"
        previous = _read_json(file) | dict(fixed or {})
        ports: dict[str, int] = {}
        for name in names:
            port = previous.get(name, 0)
            while port == 0 or port in ports.values() or not is_port_free(port):
                if name in (fixed or {}):
                    raise ConfigurationError(f"Port {port} of 127.0.0.1 is taken: choose another PORT, or leave it out.")
                port = find_free_port()
            ports[name] = port
        file.write_text(json.dumps(previous | ports, indent=1))
        return ports

    def get_passwords(self, names: Iterable[str]) -> dict[str, str]:
        """A random password for each name, generated once. Only the owner can read the file, and nothing prints it."""
        file = self.home / "secrets.json"
        previous = _read_json(file)
        passwords = {name: previous.get(name) or secrets.token_urlsafe(24) for name in names}
        write_private_file(file, json.dumps(previous | passwords, indent=1))
        return passwords

    def save_environment(self, environment: Mapping[str, str]) -> None:
        """Save the variables of the running demonstration, so that other commands find its archive."""
        write_private_file(self.home / "environment.json", json.dumps(dict(environment), indent=1))

    def load_environment(self) -> dict[str, str]:
        """The variables that ``save_environment`` saved last; empty before the first demonstration."""
        return _read_json(self.home / "environment.json")

    def is_in_use(self) -> bool:
        """Whether a demonstration holds the lock, as far as this user can see."""
        try:
            with (self.home / "lock").open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the state directory exclusively; raises ConfigurationError when another process holds the lock."""
        with (self.home / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                address = self.load_environment().get("LS4_MAP_URL", "the address it printed")
                raise ConfigurationError(
                    f"ls4 is already running with the state in {self.home} (maps at {address}): "
                    "use that one, or stop it with Ctrl-C first."
                ) from None
            yield


@contextmanager
def explain_state_access(home: Path) -> Iterator[None]:
    """Raise ConfigurationError, with the fix, when the block meets a file of the state directory that it must not use."""
    try:
        yield
    except OSError as error:
        path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else home
        is_part = path.is_relative_to(home) or home.is_relative_to(path)
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not is_part:
            raise
        user = _user_name(os.geteuid())
        raise ConfigurationError(
            f"{path}, which is part of the state of ls4, cannot be used by the OS user {user} ({error.strerror}): run ls4 as the "
            f"owner of {home}, give it to {user} with `chown -R {user} {home}`, or name another folder in LS4_STATE."
        ) from None


def choose_state_directory(checkout: Path, environ: Mapping[str, str] = os.environ) -> tuple[StateDirectory, str | None]:
    """The state directory for this checkout and OS user, and a note to print when it is not the default one.

    Raises ConfigurationError when LS4_STATE names a folder that the unprivileged users cannot enter.
    """
    users = (DATABASE_USER, WEB_USER) if os.geteuid() == 0 else ()
    named = environ.get("LS4_STATE")
    home = (Path(named).expanduser() if named else checkout / ".ls4").absolute()
    excluded = [user for user in users if not can_enter(user, home)]
    database_user, web_user = users or (None, None)
    if not excluded:
        return StateDirectory(home, database_user, web_user), None
    if named:
        raise ConfigurationError(
            f"The OS user {excluded[0]} cannot enter {home}, the folder in LS4_STATE: name a folder whose "
            "parents are open to all users (mode 711 or more), such as /var/lib/ls4."
        )
    note = f"The OS user {excluded[0]} cannot enter {checkout}, so the state is kept in {FALLBACK_HOME}."
    return StateDirectory(FALLBACK_HOME, database_user, web_user), note


def can_enter(user: str, path: Path) -> bool:
    """Whether an OS user may enter ``path``, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    # `test` runs as that user: mode bits alone would miss access control lists and mount options
    return subprocess.run(["test", "-x", path], check=False, cwd="/", **run_as(user)).returncode == 0


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def find_free_port() -> int:
    """A TCP port on 127.0.0.1 that no server uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_port_free(port: int) -> bool:
    """Whether a server could listen on this TCP port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # as servers do it: connections of the last run that linger in TIME_WAIT do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def write_private_file(path: Path, text: str) -> None:
    """Replace a file atomically; only its owner can read it."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
