"""What a map worker that was taken over finds on one machine: no password but its own, no file to change, no other database."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest

from ls4_assets.local.postgres import run_as
from ls4_assets_tests.kills import LocalPlatform, running_local_platform

pytestmark = pytest.mark.timeout(300)

# Each service of ls4_assets/local/services.py, by a word of its command line, and the roles whose passwords it needs.
SERVICES = {
    "/postgres -D": (),
    "mapserver.workers": (),
    "cgi-bin/mapserv": (),
    "nginx": (),
    "code_server": ("ls4", "dagster"),
    "ls4_assets.operations.webserver": ("ls4", "dagster"),
    "dagster-daemon": ("ls4", "dagster"),
    "ls4_assets.runtime.run_server": ("ls4", "dagster"),
}
# The shell of `setpriv` adds none, and PostgreSQL sets its own.
BASIC = {"PATH", "LC_ALL"}


@pytest.fixture(scope="module")
def local() -> Iterator[LocalPlatform]:
    os.environ["UNRELATED_SECRET"] = "of the operator's shell"
    try:
        with running_local_platform() as platform:
            yield platform
    finally:
        del os.environ["UNRELATED_SECRET"]


def command_line(process: psutil.Process) -> str:
    """Empty for a process that has ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def processes_of(word: str) -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if word in command_line(child)]


@pytest.mark.parametrize("word", SERVICES)
def test_service_has_only_the_passwords_that_it_needs(local: LocalPlatform, word: str) -> None:
    """Map workers of a laptop had the passwords of the databases' owners in their environment."""
    found = processes_of(word)
    assert found, f"{word} does not run"
    for process in found:
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace")
        assert "UNRELATED_SECRET" not in environment
        passwords = local.state.get_passwords(("postgres", "ls4", "dagster", "mapserver"))
        present = {role for role, password in passwords.items() if password in environment + command_line(process)}
        assert present <= set(SERVICES[word]), word
        if not SERVICES[word] and word in ("mapserver.workers", "cgi-bin/mapserv"):
            names = {line.partition("=")[0] for line in environment.split("\0") if line}
            assert names <= BASIC


def test_every_service_is_in_the_list(local: LocalPlatform) -> None:
    lines = [command_line(child) for child in psutil.Process().children()]
    # Earlier tests of this process may have started a CDK runtime.
    services = [line for line in lines if line and "multiprocessing" not in line and "jsii-runtime" not in line]
    assert services and not [line for line in services if not any(word in line for word in SERVICES)], lines


def test_map_server_cannot_change_its_configuration(local: LocalPlatform) -> None:
    """mapserver.conf and pg_service.conf belonged to the account of the map server."""
    if local.state.web_user is None:
        pytest.skip("as an ordinary user all services have the same account")
    conf = local.state.serving / "conf"
    assert not subprocess.run(["test", "-r", conf / "pg_service.conf"], check=False, **run_as(local.state.web_user)).returncode
    for path in [conf, *conf.rglob("*")]:
        assert path.stat().st_uid == 0 and not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH), path
        assert subprocess.run(["test", "-w", path], check=False, **run_as(local.state.web_user)).returncode, path
    private = stat.S_IMODE((conf / "pg_service.conf").stat().st_mode)
    assert private == 0o640


def connect(local: LocalPlatform, database: str) -> "psycopg2.extensions.connection":
    host, port = local.database.url.host, local.database.url.port
    password = local.state.get_passwords(("mapserver",))["mapserver"]
    return psycopg2.connect(host=host, port=port, user="mapserver", password=password, dbname=database)


def test_map_server_connects_to_one_database_only(local: LocalPlatform) -> None:
    """The role could connect to `postgres` and `template1`, as often as it wanted, and run a query forever."""
    for database in ("postgres", "template1", "dagster"):
        with pytest.raises(psycopg2.OperationalError, match="permission denied"):
            connect(local, database)
    connection = connect(local, "ls4")
    with connection, connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchall() == [("30s",)]
        cursor.execute("SELECT rolconnlimit, current_setting('max_connections')::int FROM pg_roles WHERE rolname = current_user")
        ((limit, total),) = cursor.fetchall()
        assert 0 < limit <= total / 2
    connection.close()
