"""The services of one machine: PostgreSQL, MapServer behind nginx, and Dagster's three processes.

This is the one place that knows how they are wired: who runs as whom, on which port, with which password, in
which order. Everything listens on 127.0.0.1 or on a socket in the state directory.
"""

import os
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
from dagster import DagsterInstance, DagsterRunStatus, RunsFilter

from ls4_assets.db.bootstrap import ROLES, bootstrap
from ls4_assets.local.postgres import SUPERUSER, Cluster
from ls4_assets.local.state import CHECKOUT, State
from ls4_assets.local.supervisor import Service, Supervisor
from ls4_assets.notifications.rejections import STAFF_KEY
from ls4_assets.publishing.collection_list import COLLECTIONS_KEY
from ls4_assets.runtime.local_launcher import Life, life_of
from mapserver.config import PostgresService, write_config

PORTS = ("postgres", "front", "dagit", "code")


@dataclass(frozen=True)
class Addresses:
    """What the operator opens."""

    dagster_ui: str
    front: str

    def wms(self, name: str) -> str:
        """The WMS address of a collection, by its name such as ``Travis_USDA_1958_frames``."""
        return f"{self.front}/?map=/mapfiles/{name.lower()}.map"


def start_services(state: State, supervisor: Supervisor, port: int | None = None) -> Addresses:
    """Start everything, in order; when it returns all serves and the LS4_* variables are set here too.

    ``port``: where the maps are served; None: the one of the last start, or a free one. Raises ServiceError
    with the end of the log of what does not start, ConfigurationError when something is not installed or the
    port is taken.
    """
    ports = state.ports(PORTS, wanted={"front": port} if port else {})
    passwords = state.passwords((SUPERUSER, *ROLES))
    addresses = Addresses(f"http://127.0.0.1:{ports['dagit']}", f"http://127.0.0.1:{ports['front']}")

    cluster = Cluster(state.postgres / "data", ports["postgres"], passwords[SUPERUSER], state.database_user)
    supervisor.start(_postgres(cluster))
    bootstrap(cluster.admin_url, {role: passwords[role] for role in ROLES})

    environment = _environment(state, ports["postgres"], passwords, addresses)
    state.save_environment(environment)
    os.environ.update(environment)
    shutil.rmtree(state.work, ignore_errors=True)
    state.work.mkdir()
    _make_dagster_home(state, ports["code"])
    supervisor.start(_code_server(ports["code"]), *_serving(state, ports, passwords["mapserver"]))
    fail_interrupted_runs()
    supervisor.start(*_dagster(state, ports["dagit"]))
    return addresses


def fail_interrupted_runs() -> None:
    """Report the runs that the last stop interrupted as failed, so that their frames are given to others.

    The daemon would find them too (`launcher`), but later, and those that had not begun much later. To be called before it
    starts: nobody launches a run at that moment, so one whose process is not to be found has none.
    """
    under_way = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    with DagsterInstance.get() as instance:
        for run in instance.get_runs(RunsFilter(statuses=under_way)):
            if life_of(instance, run) is not Life.ALIVE:
                instance.report_run_failed(run, "The machine's services stopped while this run was under way.")


def _environment(state: State, port: int, passwords: dict[str, str], addresses: Addresses) -> dict[str, str]:
    def database(role: str) -> str:
        return f"postgresql+psycopg2://{role}:{passwords[role]}@127.0.0.1:{port}/{role}"

    return {
        "LS4_STORAGE": str(state.archive),
        "LS4_DATABASE_URL": database("ls4"),
        "LS4_PUBLIC_URL": f"{addresses.front}/archive",
        "LS4_MAP_URL": addresses.front,
        "LS4_DAGSTER_URL": addresses.dagster_ui,
        "LS4_STAFF_URL": f"{addresses.front}/staff",
        "LS4_NOTIFY_FILE": str(state.logs / "notices.txt"),
        "LS4_LOG_FILE": str(state.logs / "ls4.jsonl"),
        "LS4_WORK_DIR": str(state.work),
        "LS4_DAGSTER_DATABASE_URL": database("dagster"),
        "DAGSTER_HOME": str(state.dagster),
    }


def _make_dagster_home(state: State, code_port: int) -> None:
    shutil.copyfile(CHECKOUT / "dagster.yaml", state.dagster / "dagster.yaml")
    # One code server for both: the definitions load once, and the Dagster UI and the daemon see the same ones.
    (state.dagster / "workspace.yaml").write_text(
        f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {code_port}, location_name: ls4}}\n"
    )


def _postgres(cluster: Cluster) -> Service:
    # SIGINT is PostgreSQL's fast shutdown; on SIGTERM it would wait for its clients to leave
    return Service(
        "postgres", tuple(cluster.command()), cluster.ready, {"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
        cluster.os_user, signal.SIGINT, stop_within=30, prepare=cluster.prepare,
    )  # fmt: skip


def _serving(state: State, ports: dict[str, int], password: str) -> tuple[Service, Service]:
    mapfiles = state.archive / "mapfiles"
    mapfiles.mkdir(exist_ok=True)
    serving = write_config(
        state.serving,
        port=ports["front"],
        mapfiles_dir=mapfiles,
        database=PostgresService("127.0.0.1", ports["postgres"], "ls4", "mapserver", password),
        archive_dir=state.archive,
        collections_file=state.archive / COLLECTIONS_KEY,
        rejections_file=state.archive / STAFF_KEY,
        staff=("127.0.0.0/8",),
        user=state.web_user,
    )
    workers = Service("mapserver", serving.workers_argv, lambda: True)
    return workers, Service("nginx", serving.nginx_argv, lambda: answers(serving.health_url))


def _code_server(port: int) -> Service:
    argv = _program("dagster", "api", "grpc", "--module-name", "ls4_assets.definitions", "--location-name", "ls4")
    argv += ("--host", "127.0.0.1", "--port", str(port))
    return Service("code-server", argv, lambda: _listening(port), dict(os.environ))


def _dagster(state: State, port: int) -> tuple[Service, Service]:
    workspace = ("--workspace", str(state.dagster / "workspace.yaml"))
    web = _program("dagster-webserver", "--host", "127.0.0.1", "--port", str(port), *workspace)
    daemon = _program("dagster-daemon", "run", *workspace)
    environment = dict(os.environ)
    return (
        Service("dagster-webserver", web, lambda: answers(f"http://127.0.0.1:{port}/server_info"), environment),
        Service("dagster-daemon", daemon, lambda: True, environment),
    )


def _program(name: str, *arguments: str) -> tuple[str, ...]:
    """A program of this very Python environment, whether it is activated or not."""
    return (str(Path(sys.executable).parent / name), *arguments)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200 now."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
