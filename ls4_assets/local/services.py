"""The services of one machine: PostgreSQL, MapServer behind nginx, and Dagster's three processes.

This module alone defines how they are wired: their OS users, ports, passwords and start order. Starting and restarting processes
is the work of ``supervisor.py``. Everything listens on 127.0.0.1 or on a socket in the state directory.
"""

import os
import re
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from ls4_assets.db.roles import ROLES
from ls4_assets.domain.export_keys import COLLECTIONS_KEY, STAFF_KEY
from ls4_assets.local.child import call_in_child
from ls4_assets.local.postgres import SUPERUSER, Cluster
from ls4_assets.local.state import CHECKOUT, StateDirectory
from ls4_assets.local.supervisor import Service, ServiceSupervisor
from ls4_assets.runtime import run_client
from ls4_assets.settings import load_settings
from mapserver.config import PostgresService, write_config

# By name: it imports what this process, which runs for days, does without.
PREPARATION = "ls4_assets.local.preparation"
PORTS = ("postgres", "maps", "dagster_ui", "code_server")

# Only the Dagster UI needs it.
_UI_LOGIN = "LS4_DAGSTER_PASSWORD"
_BASIC_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
# Fewer heaps in processes with many threads, and a slow evaluation of freshness, which is about assets that are built daily.
# The image has the same (deploy/Dockerfile).
_QUIET_DAGSTER = {"MALLOC_ARENA_MAX": "2", "FRESHNESS_DAEMON_INTERVAL_SECONDS": "300"}
# Settings that the operator gives to `make demo`, and that later commands such as `ls4 doctor` need too.
_FROM_SHELL = ("LS4_PROJ_GRIDS", "LS4_PROJ_NETWORK")
# What the pipeline and the libraries that it runs read.
_DAGSTER_VARIABLES = re.compile(
    r"(?:LS4|DAGSTER|AWS|AZURE|GDAL|CPL|PROJ|VSI|OTEL|PYTHON)[A-Za-z0-9_]*"
    r"|(?:HTTPS?|NO|ALL)_PROXY|(?:https?|no|all)_proxy|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
    r"|PATH|HOME|USER|LOGNAME|TMPDIR|TZ|LANG|LC_ALL|VIRTUAL_ENV"
)


@dataclass(frozen=True)
class ServiceUrls:
    """The addresses that the operator opens in a browser."""

    dagster_ui: str
    maps: str

    def wms(self, collection_name: str) -> str:
        """The WMS address of a collection with a name such as ``Adams_USDA_1958_frames``."""
        return f"{self.maps}/?map=/mapfiles/{collection_name.lower()}.map"


def start_services(state: StateDirectory, supervisor: ServiceSupervisor, map_port: int | None = None) -> ServiceUrls:
    """Start all services in order and set the LS4_* variables in this process; returns when all services are ready.

    ``map_port``: the port of the maps; None: the port of the last start, or a free one. Raises ServiceError with the end of the
    log of a service that does not start, and ConfigurationError when something is not installed or the port is taken.
    """
    ports = state.allocate_ports(PORTS, fixed={"maps": map_port} if map_port else {})
    passwords = state.get_passwords((SUPERUSER, *ROLES))
    urls = ServiceUrls(f"http://127.0.0.1:{ports['dagster_ui']}", f"http://127.0.0.1:{ports['maps']}")

    cluster = Cluster(state.postgres / "data", ports["postgres"], passwords[SUPERUSER], state.database_user)
    supervisor.start(_postgres_service(cluster))
    call_in_child(f"{PREPARATION}:prepare_database", cluster.admin_url, passwords)

    environment = _environment(state, ports["postgres"], passwords, urls)
    state.save_environment(environment)
    os.environ.update(environment)
    call_in_child(f"{PREPARATION}:relocate_archive_of_settings")
    shutil.rmtree(state.work, ignore_errors=True)
    state.work.mkdir()
    _create_dagster_home(state, ports["code_server"])
    supervisor.start(_code_server(ports["code_server"]), _run_server(), *_map_services(state, ports, passwords["mapserver"]))
    call_in_child(f"{PREPARATION}:fail_interrupted_runs", while_waiting=supervisor.poll)
    supervisor.start(*_dagster_services(state, ports["dagster_ui"]))
    return urls


def _environment(state: StateDirectory, port: int, passwords: dict[str, str], urls: ServiceUrls) -> dict[str, str]:
    def database_url(role: str) -> str:
        return f"postgresql+psycopg2://{role}:{passwords[role]}@127.0.0.1:{port}/{role}"

    return {
        "LS4_STORAGE": str(state.archive),
        "LS4_DATABASE_URL": database_url("ls4"),
        "LS4_PUBLIC_URL": f"{urls.maps}/archive",
        "LS4_MAP_URL": urls.maps,
        "LS4_DAGSTER_URL": urls.dagster_ui,
        "LS4_STAFF_URL": f"{urls.maps}/staff",
        "LS4_NOTIFY_FILE": str(state.logs / "notifications.txt"),
        "LS4_LOG_FILE": str(state.logs / "ls4.jsonl"),
        "LS4_WORK_DIR": str(state.work),
        "LS4_DAGSTER_DATABASE_URL": database_url("dagster"),
        run_client.SOCKET_VARIABLE: str(state.home / "run-server.sock"),
        **{name: os.environ[name] for name in _FROM_SHELL if name in os.environ},
        "DAGSTER_HOME": str(state.dagster),
    }


def _create_dagster_home(state: StateDirectory, code_server_port: int) -> None:
    shutil.copyfile(CHECKOUT / "dagster.yaml", state.dagster / "dagster.yaml")
    # The Dagster UI and the daemon share one code server: the definitions load once, and both see the same ones.
    (state.dagster / "workspace.yaml").write_text(
        f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {code_server_port}, location_name: ls4}}\n"
    )


def _postgres_service(cluster: Cluster) -> Service:
    # SIGINT is PostgreSQL's fast shutdown; on SIGTERM it would wait for its clients to disconnect
    return Service(
        "postgres", tuple(cluster.command()), cluster.is_ready, _BASIC_ENVIRONMENT,
        cluster.os_user, signal.SIGINT, stop_timeout_seconds=30, prepare=cluster.prepare,
    )  # fmt: skip


def _map_services(state: StateDirectory, ports: dict[str, int], password: str) -> tuple[Service, Service]:
    settings, mapfiles = load_settings(), state.archive / "mapfiles"
    mapfiles.mkdir(exist_ok=True)
    config = write_config(
        state.serving,
        port=ports["maps"],
        mapfiles_dir=mapfiles,
        database=PostgresService("127.0.0.1", ports["postgres"], "ls4", "mapserver", password),
        archive_dir=state.archive,
        archive_file=settings.archive_file,
        collections_file=state.archive / COLLECTIONS_KEY,
        rejections_file=state.archive / STAFF_KEY,
        monitor_dir=state.monitor,
        staff=("127.0.0.0/8",),
        user=state.web_user,
        proj_grids=settings.proj_grids,
        proj_network=settings.proj_network,
    )
    # They read everything, their own database role included, from files of the run directory.
    workers = Service("mapserver", config.workers_argv, lambda: True, _BASIC_ENVIRONMENT)
    return workers, Service("nginx", config.nginx_argv, lambda: returns_ok(config.health_url), _BASIC_ENVIRONMENT)


def _code_server(port: int) -> Service:
    module = ("-m", "ls4_assets.runtime.code_server", "--module-name", "ls4_assets.definitions", "--location-name", "ls4")
    argv = (sys.executable, *module, "--host", "127.0.0.1", "--port", str(port))
    return Service("code-server", argv, lambda: _is_listening(port), _dagster_environment())


def _run_server() -> Service:
    path = Path(os.environ[run_client.SOCKET_VARIABLE])
    argv = (sys.executable, "-m", "ls4_assets.runtime.run_server", str(path))
    environment = _dagster_environment() | {"OPENBLAS_NUM_THREADS": "1"}
    return Service("run-server", argv, lambda: run_client.is_running(path), environment)


def _dagster_services(state: StateDirectory, port: int) -> tuple[Service, Service]:
    workspace = ("--workspace", str(state.dagster / "workspace.yaml"))
    webserver = (sys.executable, "-m", "ls4_assets.operations.webserver", "--host", "127.0.0.1", "--port", str(port), *workspace)
    daemon = _program("dagster-daemon", "run", *workspace)
    environment = _dagster_environment()
    own = {"LS4_MONITOR_DIR": str(state.monitor)}
    if _UI_LOGIN in os.environ:
        own[_UI_LOGIN] = os.environ[_UI_LOGIN]
    is_ready = partial(returns_ok, f"http://127.0.0.1:{port}/server_info")
    return (
        Service("dagster-webserver", webserver, is_ready, environment | own),
        Service("dagster-daemon", daemon, lambda: True, environment),
    )


def _dagster_environment() -> dict[str, str]:
    """The settings of ls4, of its clients and of Dagster, without the other variables of the operator's shell."""
    settings = {name: value for name, value in os.environ.items() if _DAGSTER_VARIABLES.fullmatch(name)}
    settings.pop(_UI_LOGIN, None)
    return _BASIC_ENVIRONMENT | _QUIET_DAGSTER | settings


def _program(name: str, *arguments: str) -> tuple[str, ...]:
    """A program of this Python environment, whether the environment is activated or not."""
    return (str(Path(sys.executable).parent / name), *arguments)


def returns_ok(url: str) -> bool:
    """Whether a GET request returns status 200 now."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
