"""What the serving processes are started with: `mapserver.conf`, `nginx.conf`, the PostgreSQL service file,
and the two command lines.

`write_config` writes every file under one run directory and hands back the argv of the two processes;
starting and watching them is the caller's work (the laptop's supervisor, a container's entry point, a test).
"""

import os
import pwd
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ls4_assets.errors import ConfigurationError
from mapserver.rendering import TEMPLATES, environment

SERVICE = "ls4"
MAPSERV = Path("/usr/lib/cgi-bin/mapserv")
# By its full path: an ordinary user's PATH has no sbin.
NGINX = Path("/usr/sbin/nginx")

_HEALTH = "health"
_HTML_TEMPLATES = "/usr/share/mapserver/ogcapi/templates/html-plain/"
_STATIC = Path(__file__).parent / "static"
# nginx has no way to write a literal $ where variables are allowed.
_PLAIN_PATH = re.compile(r"/[\w./@+~ -]*")
_LONGEST_SOCKET_PATH = 107

# One request opens a COG, and no folder is listed for sidecars: masks and overviews lie inside.
_GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_CACHEMAX": "64",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_HTTP_CONNECTTIMEOUT": "5",
    "GDAL_HTTP_TIMEOUT": "20",
    "GDAL_HTTP_MAX_RETRY": "2",
}


@dataclass(frozen=True)
class PostgresService:
    """How MapServer reaches the tile index: a SELECT-only role. `host` may be a socket directory."""

    host: str
    port: int
    dbname: str
    user: str
    password: str | None = None


@dataclass(frozen=True)
class ServingConfig:
    """The two processes to start (both stay in the foreground and stop on SIGTERM), and where they answer."""

    workers_argv: tuple[str, ...]
    nginx_argv: tuple[str, ...]
    base_url: str
    health_url: str
    collections_file: Path
    log_dir: Path


def write_config(
    run_dir: Path,
    *,
    port: int,
    mapfiles_dir: Path,
    database: PostgresService,
    archive_dir: Path | None = None,
    collections_file: Path | None = None,
    user: str | None = None,
    workers: int = 4,
    gdal_options: Mapping[str, str] | None = None,
    listen: str = "127.0.0.1",
) -> ServingConfig:
    """Write the serving configuration under `run_dir` and return what to start, in any order.

    run_dir: absolute; made if missing. Holds the configuration, logs, pids, temporary files and the workers'
      socket. `user` must be able to reach it.
    port: nginx listens on `listen`:port.
    mapfiles_dir: the folder in which `<name>.map` files appear and are replaced (by os.replace):
      `<archive>/mapfiles` for a bucket that is a directory. It is made if missing, and the footprint layer's
      HTML template is put in it.
    database: written to a file that only `user` can read, as service `ls4`.
    archive_dir: the bucket directory whose public part is served at `/archive/`; None when the bucket is S3.
    collections_file: the JSON the pipeline writes for the landing page; `run_dir/collections.json` when None.
    user: whom nginx's workers and mapserv run as when this process is root (www-data when None); otherwise
      they run as whoever starts them.
    gdal_options: further GDAL configuration for mapserv (AWS_*, an endpoint): FastCGI discards the
      environment.

    Raises ConfigurationError for a path that nginx or a unix socket cannot take, an option that is no GDAL
    option, an unknown user.
    """
    account = _account(user)
    conf, logs, sock = run_dir / "conf", run_dir / "logs", run_dir / "run" / "mapserv.sock"
    error_log = logs / "mapserv.log"
    collections = collections_file or run_dir / "collections.json"
    for path in (run_dir, mapfiles_dir, collections, *([archive_dir] if archive_dir else [])):
        _require_plain(path)
    if len(os.fsencode(sock)) > _LONGEST_SOCKET_PATH:
        raise ConfigurationError(f"{sock} is too long for a unix socket: choose a shorter run directory.")
    for folder in (conf, logs, sock.parent, run_dir / "tmp"):
        folder.mkdir(parents=True, exist_ok=True)
    # The rest stays ours: whoever breaks into a worker must not write what root reads at the next start.
    error_log.touch()
    for path in (sock.parent, error_log):
        _give(path, account)
    mapfiles_dir.mkdir(parents=True, exist_ok=True)
    _publish(mapfiles_dir / "footprint.html", (TEMPLATES / "footprint.html").read_text())
    collections.parent.mkdir(parents=True, exist_ok=True)
    if not collections.exists():
        _publish(collections, '{"collections": []}\n')

    service_file = conf / "pg_service.conf"
    _publish(service_file, _service(database), mode=0o600, account=account)
    _publish(conf / "health.map", _rendered("health.map.j2", service=SERVICE))
    _publish(
        conf / "mapserver.conf",
        _rendered(
            "mapserver.conf.j2",
            error_log=error_log,
            html_templates=_HTML_TEMPLATES,
            gdal_options=_GDAL_OPTIONS | _checked(gdal_options or {}),
            health_alias=_HEALTH,
            health_map=conf / "health.map",
        ),
        mode=0o640,
        account=account,
    )
    _publish(conf / "fastcgi.conf", _rendered("fastcgi.conf.j2", service_file=service_file))
    _publish(
        conf / "nginx.conf",
        _rendered(
            "nginx.conf.j2",
            user=account.pw_name if account else None,
            run=run_dir,
            logs=logs,
            socket=sock,
            listen=listen,
            port=port,
            static=_published_page(run_dir),
            mapfiles=mapfiles_dir,
            collections_file=collections,
            archive=archive_dir,
            fastcgi=conf / "fastcgi.conf",
            health_alias=_HEALTH,
        ),
    )
    base_url = f"http://{listen}:{port}"
    return ServingConfig(
        workers_argv=(
            *(sys.executable, "-m", "mapserver.workers"),
            *("--socket", str(sock), "--workers", str(workers), "--config", str(conf / "mapserver.conf")),
            *("--mapfiles", str(mapfiles_dir), "--mapserv", str(MAPSERV)),
            *(("--database-port", str(database.port)) if not database.host.startswith("/") else ()),
            *(("--user", account.pw_name) if account else ()),
        ),
        nginx_argv=(
            *(str(NGINX), "-p", str(run_dir), "-c", str(conf / "nginx.conf")),
            *("-e", str(logs / "nginx-error.log")),
        ),
        base_url=base_url,
        health_url=f"{base_url}/health",
        collections_file=collections,
        log_dir=logs,
    )


def _account(user: str | None) -> pwd.struct_passwd | None:
    """Whom to become; None when this process is not root and cannot become anybody."""
    if os.geteuid() != 0:
        return None
    name = user or "www-data"
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ConfigurationError(f"There is no user {name} on this machine: name an existing one.") from None


def _require_plain(path: Path) -> None:
    if not _PLAIN_PATH.fullmatch(str(path)):
        raise ConfigurationError(f"nginx cannot be told the path {path}: use an absolute one of letters, digits, and ._@+~-.")


def _checked(options: Mapping[str, str]) -> dict[str, str]:
    for name in options:
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            raise ConfigurationError(f"{name!r} is no GDAL option: give names like AWS_REGION.")
    return dict(options)


def _service(database: PostgresService) -> str:
    fields = {"host": database.host, "port": database.port, "dbname": database.dbname, "user": database.user}
    if database.password is not None:
        fields["password"] = database.password
    # Fail before a hanging database holds every worker.
    fields["connect_timeout"] = 5
    if any("\n" in str(value) for value in fields.values()):
        raise ConfigurationError("A database setting holds a line break: remove it.")
    return f"[{SERVICE}]\n" + "".join(f"{name}={value}\n" for name, value in fields.items())


def _rendered(template: str, **values: object) -> str:
    return environment().get_template(template).render(values)


def _published_page(run_dir: Path) -> Path:
    """The landing page, copied to where the user of nginx can read it: a checkout may lie in a closed
    home."""
    folder = run_dir / "static"
    folder.mkdir(exist_ok=True)
    for page in _STATIC.iterdir():
        _publish(folder / page.name, page.read_text())
    return folder


def _give(path: Path, account: pwd.struct_passwd | None) -> None:
    if account:
        os.chown(path, account.pw_uid, account.pw_gid)


def _publish(path: Path, text: str, mode: int = 0o644, account: pwd.struct_passwd | None = None) -> None:
    """Whole or not at all: a running worker may read the file at this moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.chmod(mode)
    _give(temporary, account)
    temporary.replace(path)
