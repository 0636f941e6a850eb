"""What the serving processes are started with: `mapserver.conf`, `nginx.conf`, the PostgreSQL service file,
and the two command lines.

`write_config` writes every file under one run directory and hands back the argv of the two processes;
starting and watching them is the caller's work (the laptop's supervisor, a container's entry point, a test).
"""

import os
import pwd
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from ls4_assets.errors import ConfigurationError
from mapserver import statewide_map
from mapserver.files import give, make_if_allowed, publish, publish_pages
from mapserver.rendering import FOOTPRINT, TEMPLATES, environment

SERVICE = "ls4"
MAPSERV = Path("/usr/lib/cgi-bin/mapserv")
# By its full path: an ordinary user's PATH has no sbin.
NGINX = Path("/usr/sbin/nginx")
NGINX_JAVASCRIPT = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")

_HEALTH = "health"
_HTML_TEMPLATES = "/usr/share/mapserver/ogcapi/templates/html-plain/"
_FRONT = Path(__file__).with_name("front_end.js")
# nginx has no way to write a literal $ where variables are allowed.
_PLAIN_PATH = re.compile(r"/[\w./@+~ -]*")
_LONGEST_SOCKET_PATH = 107
# nginx's own word: in a container, /dev/stderr may be another user's pipe, which cannot be opened.
_STDERR = "stderr"

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
    sslmode: str | None = None


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
    workers: int | None = None,
    worker_memory_mb: int = 600,
    tile_cache_mb: int = 512,
    proxies: Sequence[str] = (),
    rejections_file: Path | None = None,
    staff: Sequence[str] = (),
    gdal_options: Mapping[str, str] | None = None,
    listen: str = "127.0.0.1",
    log_to_stderr: bool = False,
) -> ServingConfig:
    """Write the serving configuration under `run_dir` and return what to start, in any order.

    run_dir: absolute; made if missing. Holds the configuration, logs, pids, temporary files and the workers'
      socket. `user` must be able to reach it.
    port: nginx listens on `listen`:port.
    mapfiles_dir: the folder in which `<name>.map` files appear and are replaced (by os.replace):
      `<archive>/mapfiles` for a bucket that is a directory. It is made if missing, and the footprint layer's
      HTML template is put in it, where that is allowed.
    database: written to a file that only `user` can read, as service `ls4`.
    archive_dir: the bucket directory whose public part is served at `/archive/`; None when the bucket is S3.
    collections_file: the JSON the pipeline writes for the landing page, which shows no collection until then;
      `run_dir/collections.json` when None.
    user: whom nginx's workers and mapserv run as when this process is root (www-data when None); otherwise
      they run as whoever starts them.
    workers: of mapserv; None: two a core on a folder, four on S3, where they wait more than they work.
    worker_memory_mb: a worker that grows over this is replaced.
    tile_cache_mb: the most disk that kept tiles may take; 0 keeps none.
    proxies: addresses or networks of load balancers, whose X-Forwarded-Proto and -Host are believed.
    rejections_file: the JSON of rejected files that the pipeline writes, for the page /staff; None: there is no such page.
    staff: addresses or networks that may read it, as they reach nginx or as `proxies` tell of them; nobody else does.
    gdal_options: further GDAL configuration for mapserv (AWS_*, an endpoint): FastCGI discards the
      environment.
    log_to_stderr: errors of nginx and MapServer go to stderr, as a container's shall, and not into files of the run directory.

    Raises ConfigurationError for a path that nginx or a unix socket cannot take, an option that is no GDAL
    option, a proxy that is no address, an unknown user, and where nginx cannot run the front's JavaScript.
    """
    for path in (run_dir, mapfiles_dir, *filter(None, (collections_file, archive_dir, rejections_file))):
        _require_plain(path)
    place = _Place.made(run_dir, _account(user), log_to_stderr)
    collections = collections_file or place.collections
    # In an archive that may only be read here, the pipeline makes folder and template with the first map.
    make_if_allowed(mapfiles_dir)
    if os.access(mapfiles_dir, os.W_OK):
        publish(mapfiles_dir / FOOTPRINT.name, FOOTPRINT.read_bytes())
    publish_pages(place.static)
    _write_mapserver(place, database, _GDAL_OPTIONS | _checked(gdal_options or {}))
    _write_nginx(
        place,
        {
            "mapfiles": mapfiles_dir,
            "archive": archive_dir,
            "rejections_file": rejections_file,
            "collections_file": collections,
            "proxies": _networks(proxies),
            "staff": _networks(staff),
            "tile_cache_mb": tile_cache_mb,
            "listen": listen,
            "port": port,
        },
    )
    started = {
        "--workers": workers or _cores() * (2 if archive_dir else 4),
        "--max-rss-mb": worker_memory_mb,
        "--mapfiles": mapfiles_dir,
        **({} if database.host.startswith("/") else {"--database-port": database.port}),
    }
    base_url = f"http://{listen}:{port}"
    return ServingConfig(
        workers_argv=_workers_argv(place, started),
        nginx_argv=(str(NGINX), "-p", str(run_dir), "-c", str(place.conf / "nginx.conf"), "-e", place.nginx_log),
        base_url=base_url,
        health_url=f"{base_url}/health",
        collections_file=collections,
        log_dir=place.logs,
    )


@dataclass(frozen=True)
class _Place:
    """The run directory, and who reads it. The two logs are file names, or nginx's word for stderr."""

    run: Path
    account: pwd.struct_passwd | None
    mapserv_log: str
    nginx_log: str

    @property
    def conf(self) -> Path:
        return self.run / "conf"

    @property
    def logs(self) -> Path:
        return self.run / "logs"

    @property
    def socket(self) -> Path:
        return self.run / "run" / "mapserv.sock"

    @property
    def static(self) -> Path:
        return self.run / "static"

    @property
    def collections(self) -> Path:
        return self.run / "collections.json"

    @classmethod
    def made(cls, run: Path, account: pwd.struct_passwd | None, log_to_stderr: bool) -> "_Place":
        """With its folders, of which the workers may write to their socket's and to their log alone: whoever breaks into one must
        not write what root reads at the next start."""
        mapserv_log, nginx_log = run / "logs" / "mapserv.log", run / "logs" / "nginx-error.log"
        place = cls(run, account, *((_STDERR, _STDERR) if log_to_stderr else (str(mapserv_log), str(nginx_log))))
        if not NGINX_JAVASCRIPT.exists():
            raise ConfigurationError(f"{NGINX_JAVASCRIPT} is missing: install the package libnginx-mod-http-js.")
        if len(os.fsencode(place.socket)) > _LONGEST_SOCKET_PATH:
            raise ConfigurationError(f"{place.socket} is too long for a unix socket: choose a shorter run directory.")
        for folder in (place.conf, place.logs, place.socket.parent, run / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        mapserv_log.touch()
        for path in (place.socket.parent, mapserv_log):
            give(path, account)
        return place


def _write_mapserver(place: _Place, database: PostgresService, gdal_options: Mapping[str, str]) -> None:
    """What mapserv reads, all of it before any mapfile of a collection."""
    conf, service_file = place.conf, place.conf / "pg_service.conf"
    publish(service_file, _service(database), mode=0o600, account=place.account)
    publish(conf / "health.map", _rendered("health.map.j2", service=SERVICE))
    for name, text in statewide_map.documents(SERVICE).items():
        publish(conf / name, text)
    aliases = {name: conf / f"{name}.map" for name in (_HEALTH, statewide_map.NAME)}
    told = _rendered("mapserver.conf.j2", html_templates=_HTML_TEMPLATES, gdal_options=gdal_options, aliases=aliases)
    publish(conf / "mapserver.conf", told, mode=0o640, account=place.account)
    publish(conf / "fastcgi.conf", _rendered("fastcgi.conf.j2", service_file=service_file, error_log=place.mapserv_log))


def _write_nginx(place: _Place, given: Mapping[str, object]) -> None:
    """nginx.conf, and what it reads; `given` are the templates' values that the caller of `write_config` decides."""
    conf = place.conf
    ours = {
        "run": place.run, "conf": conf, "socket": place.socket, "static": place.static, "error_log": place.nginx_log,
        "user": place.account.pw_name if place.account else None, "javascript_module": NGINX_JAVASCRIPT, "health": _HEALTH,
        "catalog": statewide_map.NAME, "catalog_layers": statewide_map.TILE_LAYERS,
    }  # fmt: skip
    publish(conf / _FRONT.name, _FRONT.read_text())
    publish(conf / "blank.png", (TEMPLATES / "blank.png").read_bytes())
    for name in ("variables.conf", "nginx.conf"):
        publish(conf / name, _rendered(f"{name}.j2", **ours, **given))


def _workers_argv(place: _Place, options: Mapping[str, object]) -> tuple[str, ...]:
    ours = {"--socket": place.socket, "--config": place.conf / "mapserver.conf", "--mapserv": MAPSERV}
    user = {"--user": place.account.pw_name} if place.account else {}
    told = [str(word) for option in {**ours, **options, **user}.items() for word in option]
    return (sys.executable, "-m", "mapserver.workers", *told)


def _account(user: str | None) -> pwd.struct_passwd | None:
    """Whom to become; None when this process is not root and cannot become anybody."""
    if os.geteuid() != 0:
        return None
    name = user or "www-data"
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ConfigurationError(f"There is no user {name} on this machine: name an existing one.") from None


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _networks(given: Sequence[str]) -> list[str]:
    try:
        return [str(ip_network(each)) for each in given]
    except ValueError as error:
        raise ConfigurationError(f"{error}: name load balancers and staff like 10.0.0.0/16.") from None


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
    if database.sslmode is not None:
        fields["sslmode"] = database.sslmode
    # Fail before a hanging database holds every worker.
    fields["connect_timeout"] = 5
    if any("\n" in str(value) for value in fields.values()):
        raise ConfigurationError("A database setting holds a line break: remove it.")
    return f"[{SERVICE}]\n" + "".join(f"{name}={value}\n" for name, value in fields.items())


def _rendered(template: str, **values: object) -> str:
    return environment().get_template(template).render(values)
