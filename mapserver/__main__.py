"""The map server of a container: `python -m mapserver` writes the configuration and runs nginx and the workers until SIGTERM.

Of the two, whichever ends takes the other with it: whoever started this container starts it again. The database is named by
libpq's own variables (PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGSSLMODE), storage by the usual AWS_*. On S3 the sidecar
`python -m mapserver.sync` brings the mapfiles.
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

from ls4_assets.errors import ConfigurationError
from mapserver.config import PostgresService, ServingConfig, write_config

GRACE_SECONDS = 15.0
POLL_SECONDS = 0.2
# How GDAL finds credentials and bucket: FastCGI discards the environment, so it is written into mapserver.conf.
_STORAGE = (
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING"),
)


def database(environment: Mapping[str, str]) -> PostgresService:
    """Raises ConfigurationError where there is no server or no sound port."""
    host, port = environment.get("PGHOST"), environment.get("PGPORT", "5432")
    if not host:
        raise ConfigurationError("PGHOST names no database: set it to the server of the tile indexes.")
    if not port.isdecimal():
        raise ConfigurationError(f"PGPORT={port} is no port: give a number, such as 5432.")
    return PostgresService(
        host=host,
        port=int(port),
        dbname=environment.get("PGDATABASE", "ls4"),
        user=environment.get("PGUSER", "mapserver"),
        password=environment.get("PGPASSWORD"),
        sslmode=environment.get("PGSSLMODE"),
    )


def serve(config: ServingConfig) -> int:
    """Until one of the two ends (then 1), or a signal comes (then 0)."""
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    processes = [subprocess.Popen(argv) for argv in (config.workers_argv, config.nginx_argv)]
    while not stopping and all(process.poll() is None for process in processes):
        time.sleep(POLL_SECONDS)
    for process in reversed(processes):  # nginx first: nothing is asked of workers that are leaving
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return 0 if stopping else 1


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m mapserver", description="Serve maps: nginx and its MapServer workers.")
    add = parser.add_argument
    add("--run-dir", type=Path, required=True, help="configuration, sockets and temporary files")
    add("--mapfiles", type=Path, required=True, help="the folder of mapfiles")
    add("--collections", type=Path, required=True, help="the page's list of collections")
    add("--rejections", type=Path, help="the staff page's list of rejected files; default: there is no such page")
    add("--staff", action="append", default=[], help="address or network that may read it; may be given again")
    add("--archive", type=Path, help="the archive, where it is a folder")
    add("--listen", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8080, help="port to listen on")
    add("--proxy", action="append", default=[], help="address or network of a load balancer; may be given again")
    add("--workers", type=int, help="MapServer workers; default: by the cores")
    given = parser.parse_args(arguments)
    try:
        config = write_config(
            given.run_dir,
            port=given.port,
            listen=given.listen,
            mapfiles_dir=given.mapfiles,
            archive_dir=given.archive,
            collections_file=given.collections,
            rejections_file=given.rejections,
            staff=given.staff,
            database=database(os.environ),
            proxies=given.proxy,
            workers=given.workers,
            gdal_options={name: os.environ[name] for name in _STORAGE if os.environ.get(name)},
            log_to_stderr=True,
        )
    except ConfigurationError as error:
        parser.error(str(error))
    sys.exit(serve(config))


if __name__ == "__main__":
    main()
