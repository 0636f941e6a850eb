"""The map server's container: `python -m mapserver` writes the configuration and runs nginx and the workers until SIGTERM.

When one of the two processes exits, the other is stopped and this process exits with status 1, so that the container is
restarted. The database is configured by libpq's variables (PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGSSLMODE), a bucket
by AWS_* or AZURE_*, the archive by the file in LS4_ARCHIVE_FILE, and PROJ by LS4_PROJ_GRIDS and LS4_PROJ_NETWORK. The
configuration itself is in `config`; for a bucket the sidecar `python -m mapserver.sync` copies the mapfiles.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from ls4_assets.domain.storages import KINDS
from ls4_assets.errors import ConfigurationError
from mapserver.config import CLIENT_RATE, PostgresService, ServingConfig, write_config
from mapserver.proj_data import is_true

GRACE_SECONDS = 15.0
POLL_SECONDS = 0.2
# GDAL's access to the bucket. FastCGI discards the environment, so these variables are written to mapserver.conf.
_GDAL_VARIABLES = [name for kind in KINDS.values() for name in kind.gdal_variables]


def database_service(environment: Mapping[str, str]) -> PostgresService:
    """The database that libpq's variables name. Raises ConfigurationError for a missing server or an invalid port."""
    host, port = environment.get("PGHOST"), environment.get("PGPORT", "5432")
    if not host:
        raise ConfigurationError("PGHOST is not set: set it to the PostgreSQL server of the tile indexes.")
    if not port.isdecimal():
        raise ConfigurationError(f"PGPORT={port} is not a port: use a number, such as 5432.")
    return PostgresService(
        host=host,
        port=int(port),
        dbname=environment.get("PGDATABASE", "ls4"),
        user=environment.get("PGUSER", "mapserver"),
        password=environment.get("PGPASSWORD"),
        sslmode=environment.get("PGSSLMODE"),
    )


def serve(config: ServingConfig) -> int:
    """Run both processes; returns 1 when one of them exits, 0 after SIGTERM or SIGINT."""
    is_stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal is_stopping
        is_stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    processes = [subprocess.Popen(argv) for argv in (config.workers_argv, config.nginx_argv)]
    while not is_stopping and all(process.poll() is None for process in processes):
        time.sleep(POLL_SECONDS)
    for process in reversed(processes):  # nginx first, so that stopping workers get no new requests
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return 0 if is_stopping else 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit with the status of `serve`, or 2 for an invalid configuration."""
    parser = argparse.ArgumentParser("python -m mapserver", description="Serve maps: nginx and its MapServer workers.")
    add = parser.add_argument
    add("--run-dir", type=Path, required=True, help="configuration, sockets and temporary files")
    add("--mapfiles", type=Path, required=True, help="folder of the mapfiles")
    add("--collections", type=Path, required=True, help="the map page's list of collections")
    add("--rejections", type=Path, help="the staff page's list of rejected files; default: no staff page")
    add("--monitor", type=Path, help="folder of the monitor, for /metrics and for staff on the pages; default: no monitor")
    add("--staff", action="append", default=[], help="address or network that may read the staff page; repeatable")
    add("--staff-host", action="append", default=[], help="host name of the staff page; repeatable; localhost always works")
    add("--archive", type=Path, help="the archive, if it is a folder")
    add("--archive-file", type=Path, default=os.environ.get("LS4_ARCHIVE_FILE") or None, help="TOML file that describes it")
    add("--proj-grids", type=Path, default=os.environ.get("LS4_PROJ_GRIDS") or None, help="folder of PROJ's grids")
    add("--listen", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8080, help="port to listen on")
    add("--proxy", action="append", default=[], help="address or network of a load balancer; repeatable")
    add("--workers", type=int, help="number of MapServer workers; default: by the number of cores")
    add("--client-rate", type=int, default=CLIENT_RATE, help="map requests per second of one client; 0: no limit")
    options = parser.parse_args(arguments)
    try:
        config = write_config(
            options.run_dir,
            port=options.port,
            listen=options.listen,
            mapfiles_dir=options.mapfiles,
            archive_dir=options.archive,
            archive_file=options.archive_file,
            collections_file=options.collections,
            rejections_file=options.rejections,
            monitor_dir=options.monitor,
            staff=options.staff,
            staff_hosts=options.staff_host,
            database=database_service(os.environ),
            proxies=options.proxy,
            workers=options.workers,
            client_rate=options.client_rate,
            gdal_options={name: os.environ[name] for name in _GDAL_VARIABLES if os.environ.get(name)},
            proj_grids=options.proj_grids,
            proj_network=is_true(os.environ.get("LS4_PROJ_NETWORK", "")),
            log_to_stderr=True,
        )
    except ConfigurationError as error:
        parser.error(str(error))
    sys.exit(serve(config))


if __name__ == "__main__":
    main()
