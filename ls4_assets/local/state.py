"""Where one machine keeps what it makes: the state directory, its ports, its passwords and its lock.

The state directory is ``.ls4`` in the checkout, or where LS4_STATE says. Root lends PostgreSQL and the map
server to unprivileged OS users, and these have to reach the directory: where some parent of the checkout is
closed to them, the state goes to /var/lib/ls4 instead. Everything here can be deleted while nothing runs; the
next start makes it anew.
"""

import fcntl
import json
import os
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
FALLBACK = Path("/var/lib/ls4")
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class State:
    """The state directory, and the OS users that root lends processes to (None: whoever starts them)."""

    home: Path
    database_user: str | None = None
    web_user: str | None = None

    @property
    def archive(self) -> Path:
        """The bucket: the directory that staff drop scans into."""
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
    def work(self) -> Path:
        """Scratch space of the runs; emptied at each start, as a killed run leaves its own."""
        return self.home / "work"

    def make(self) -> None:
        """Make the folders; those who serve read them, only the owner writes."""
        for folder in (self.home, self.archive, self.logs, self.postgres, self.dagster, self.serving):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            folder.chmod(0o755)  # whatever the umask was

    def ports(self, names: Iterable[str], wanted: Mapping[str, int] | None = None) -> dict[str, int]:
        """A port on 127.0.0.1 for each name: that of the last start while it is free, so that addresses stay.

        Raises ConfigurationError when a port that is ``wanted`` by its number is taken.
        """
        file = self.home / "ports.json"
        known = _read(file) | dict(wanted or {})
        ports: dict[str, int] = {}
        for name in names:
            port = known.get(name, 0)
            while port == 0 or port in ports.values() or not port_is_free(port):
                if name in (wanted or {}):
                    raise ConfigurationError(f"Port {port} of 127.0.0.1 is taken: choose another PORT, or leave it out.")
                port = free_port()
            ports[name] = port
        file.write_text(json.dumps(known | ports, indent=1))
        return ports

    def passwords(self, names: Iterable[str]) -> dict[str, str]:
        """A random password for each name, made once; the file is its owner's alone and nothing prints it."""
        file = self.home / "secrets.json"
        known = _read(file)
        passwords = {name: known.get(name) or secrets.token_urlsafe(24) for name in names}
        write_private(file, json.dumps(known | passwords, indent=1))
        return passwords

    def save_environment(self, environment: Mapping[str, str]) -> None:
        """Keep the variables of the running demonstration, so that other commands find its archive."""
        write_private(self.home / "environment.json", json.dumps(dict(environment), indent=1))

    def environment(self) -> dict[str, str]:
        """What ``save_environment`` kept last; empty when there was no demonstration yet."""
        return _read(self.home / "environment.json")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the state directory alone; raises ConfigurationError when another process holds it."""
        with (self.home / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                address = self.environment().get("LS4_MAP_URL", "the address it printed")
                raise ConfigurationError(
                    f"ls4 is running already with the state in {self.home} (maps at {address}): "
                    "use that one, or stop it with Ctrl-C first."
                ) from None
            yield


def choose_state(checkout: Path, environ: Mapping[str, str] = os.environ) -> tuple[State, str | None]:
    """The state directory for this checkout and OS user, and what to say when it is not the usual one.

    Raises ConfigurationError when LS4_STATE names a folder that the unprivileged users cannot reach.
    """
    users = (DATABASE_USER, WEB_USER) if os.geteuid() == 0 else ()
    named = environ.get("LS4_STATE")
    home = (Path(named).expanduser() if named else checkout / ".ls4").absolute()
    closed_to = [user for user in users if not reaches(user, home)]
    database_user, web_user = users or (None, None)
    if not closed_to:
        return State(home, database_user, web_user), None
    if named:
        raise ConfigurationError(
            f"The OS user {closed_to[0]} cannot reach {home}, which LS4_STATE names: name a folder whose "
            "parents are open to all (mode 711 or more), such as /var/lib/ls4."
        )
    note = f"The OS user {closed_to[0]} cannot reach {checkout}, so the state is kept in {FALLBACK}."
    return State(FALLBACK, database_user, web_user), note


def reaches(user: str, path: Path) -> bool:
    """Whether an OS user may enter ``path``, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    # asked of the kernel as that user: mode bits alone would miss access lists and mount options
    return subprocess.run(["test", "-x", path], check=False, cwd="/", **run_as(user)).returncode == 0


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this TCP port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # as servers do it: connections of the last run that linger in TIME_WAIT do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def write_private(path: Path, text: str) -> None:
    """Replace a file that only its owner can read, never leaving half of it."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(path)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
