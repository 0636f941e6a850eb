"""The configuration of the serving processes: mapserver.conf, nginx.conf, the PostgreSQL service file and two command lines.

`write_config` writes all files below one run directory and returns the argv of the two processes. Starting and supervising them
belongs to the caller: `ls4_assets.local`, the container's entry point (`__main__`), or a test.
"""

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ls4_assets.domain.archive_file import ArchiveDescription, read_archive_file
from ls4_assets.domain.export_keys import HEALTH_FILE, METRICS_FILE
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.errors import ConfigurationError
from mapserver import statewide_map
from mapserver.archive_page import ARCHIVE_DOCUMENT, install_archive_page
from mapserver.files import change_owner, create_folder_if_writable, install_pages, write_atomically
from mapserver.options import parse_host, parse_networks, require_nginx_path, serving_account, validate_gdal_options
from mapserver.proj_data import write_proj_data
from mapserver.rendering import FOOTPRINT_TEMPLATE, TEMPLATES, render_template

SERVICE = "ls4"
MAPSERV = Path("/usr/lib/cgi-bin/mapserv")
# The full path, because an ordinary user's PATH does not include sbin.
NGINX = Path("/usr/sbin/nginx")
NGINX_JAVASCRIPT = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")

_HEALTH = "health"
_FEATURE_TEMPLATES = Path("/usr/share/mapserver/ogcapi/templates/html-plain")
_SCRIPT_NAMES = ("front_end", "services", "all_collections", "photographs")
_NGINX_SCRIPTS = tuple(Path(__file__).with_name(f"{name}.js") for name in _SCRIPT_NAMES)
_MAX_SOCKET_PATH_BYTES = 107
# The workers' sockets are beside the dispatcher's, with a number before the suffix.
_WORKER_NUMBER_BYTES = 4
# Connections of each of nginx's two processes. Half-open ones cost little, and end after ten seconds.
_CONNECTIONS = 4096
# Map requests per second of one client. A map in a browser sends about thirty for a view.
CLIENT_RATE = 100
# Requests of one client that nginx has in hand at the same time. A browser sends six, or a hundred over HTTP/2.
_CLIENT_CONNECTIONS = 100
# nginx's keyword. In a container, /dev/stderr may be another user's pipe, which cannot be opened.
_STDERR = "stderr"

# A COG opens with one request and without listing its folder: masks and overviews are internal.
_GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_CACHEMAX": "64",
    "GDAL_PAM_ENABLED": "NO",
    # Between two overview levels. The default, nearest neighbor, shows moire on plowed fields, and MapServer's PROCESSING
    # "RESAMPLE=..." would warp every frame. At the resolution of a level the pixels stay as they are.
    "GDAL_RASTERIO_RESAMPLING": "BILINEAR",
    "GDAL_HTTP_CONNECTTIMEOUT": "5",
    "GDAL_HTTP_TIMEOUT": "20",
    "GDAL_HTTP_MAX_RETRY": "2",
}


@dataclass(frozen=True)
class PostgresService:
    """How MapServer connects to the tile index, with a SELECT-only role. `host` may be a socket directory."""

    host: str
    port: int
    dbname: str
    user: str
    password: str | None = None
    sslmode: str | None = None


@dataclass(frozen=True)
class ServingConfig:
    """The two processes to start, and their addresses. Both processes run in the foreground and stop on SIGTERM."""

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
    archive_file: Path | None = None,
    collections_file: Path | None = None,
    user: str | None = None,
    workers: int | None = None,
    worker_memory_mb: int = 600,
    tile_cache_mb: int = 512,
    client_rate: int = CLIENT_RATE,
    proxies: Sequence[str] = (),
    rejections_file: Path | None = None,
    monitor_dir: Path | None = None,
    staff: Sequence[str] = (),
    staff_hosts: Sequence[str] = (),
    gdal_options: Mapping[str, str] | None = None,
    proj_grids: Path | None = None,
    proj_network: bool = False,
    listen: str = "127.0.0.1",
    log_to_stderr: bool = False,
) -> ServingConfig:
    """Write the serving configuration below `run_dir` and return what to start, in any order.

    run_dir: absolute; created if missing. Contains the configuration, logs, process ids, temporary files and the workers' socket.
      `user` must be able to reach it.
    port: nginx listens on `listen`:port.
    mapfiles_dir: the folder in which `<name>.map` files appear and are replaced (by os.replace): `<archive>/mapfiles` for an
      archive in a folder. Where permitted, it is created and the footprint layer's HTML template is written to it.
    database: written as service `ls4` to a file that only `user` can read, and that root owns when this process is root.
    archive_dir: the archive's folder, whose public part is served at `/archive/`; None when the archive is a bucket.
    archive_file: the TOML file that describes the archive; None: the one that ships with ls4.
    collections_file: the JSON list that the pipeline writes for the map page; `run_dir/collections.json` when None. Until it
      exists, the page shows no collection.
    user: the account of nginx's workers and of mapserv when this process is root (www-data when None); otherwise they run as the
      current user.
    workers: number of mapserv processes; None: two per core on a folder, four for a bucket, where they mostly wait.
    worker_memory_mb: a worker whose resident memory exceeds this is replaced.
    tile_cache_mb: maximum disk space of cached tiles; 0 disables the cache.
    client_rate: map requests per second of one client, in bursts of up to four seconds' worth; more get a 429. 0: no limit.
    proxies: addresses or networks of load balancers, whose X-Forwarded-Proto, -Host and -For are trusted. Without them all
      clients behind a load balancer count as one.
    rejections_file: the JSON list of rejected files that the pipeline writes for the page /staff; None: no such page.
    monitor_dir: the folder to which the monitor writes health and metrics; None: there is no monitor.
    staff: addresses or networks that may read that page, health and metrics, as nginx or a trusted proxy sees them. Others get
      a 404.
    staff_hosts: host names under which they may request it; localhost and IP addresses always work.
    gdal_options: additional GDAL configuration of mapserv (AWS_*, AZURE_*), because FastCGI discards the environment.
    proj_grids: folder of PROJ's grids, in addition to those of the system; the workers must be able to read it. None: none.
    proj_network: fetch missing grids from cdn.proj.org.
    log_to_stderr: errors of nginx and MapServer go to stderr, as a container needs, instead of into files of the run directory.

    Raises ConfigurationError for an invalid archive file, a path that nginx or a Unix socket cannot use, an invalid GDAL option,
    an invalid proxy or staff address or host name, an unknown user, and where nginx's JavaScript module is missing.
    """
    for path in (run_dir, mapfiles_dir, *filter(None, (collections_file, archive_dir, rejections_file, monitor_dir))):
        require_nginx_path(path)
    archive = read_archive_file(archive_file)
    run = _RunDirectory.create(run_dir, serving_account(user), log_to_stderr)
    collections = collections_file or run.collections
    # In a read-only archive the pipeline creates folder and template with the first map.
    create_folder_if_writable(mapfiles_dir)
    if os.access(mapfiles_dir, os.W_OK):
        write_atomically(mapfiles_dir / FOOTPRINT_TEMPLATE.name, FOOTPRINT_TEMPLATE.read_bytes())
    install_pages(run.static)
    install_archive_page(run.static, archive)
    options = (
        _GDAL_OPTIONS | validate_gdal_options(gdal_options or {}) | write_proj_data(run.path / "proj", proj_grids, proj_network)
    )
    _write_mapserver_config(run, database, archive, options)
    _write_nginx_config(
        run,
        {
            "mapfiles": mapfiles_dir,
            "archive": archive_dir,
            "rejections_file": rejections_file,
            "monitor": monitor_dir,
            "film_types": [*FILM_TYPES],
            "collections_file": collections,
            "proxies": parse_networks(proxies),
            "staff": parse_networks(staff),
            "staff_hosts": [parse_host(name) for name in staff_hosts],
            "tile_cache_mb": tile_cache_mb,
            "client_rate": client_rate,
            "client_connections": _CLIENT_CONNECTIONS,
            "connections": _CONNECTIONS,
            "listen": listen,
            "port": port,
        },
    )
    worker_options = {
        "--workers": workers or _cpu_count() * (2 if archive_dir else 4),
        "--max-rss-mb": worker_memory_mb,
        "--mapfiles": mapfiles_dir,
        **({} if database.host.startswith("/") else {"--database-port": database.port}),
    }
    base_url = f"http://{listen}:{port}"
    return ServingConfig(
        workers_argv=_workers_argv(run, worker_options),
        nginx_argv=(str(NGINX), "-p", str(run_dir), "-c", str(run.conf / "nginx.conf"), "-e", run.nginx_log),
        base_url=base_url,
        health_url=f"{base_url}/health",
        collections_file=collections,
        log_dir=run.logs,
    )


@dataclass(frozen=True)
class _RunDirectory:
    """The run directory, and the account of the processes that read it. The two logs are file names, or nginx's `stderr`."""

    path: Path
    account: pwd.struct_passwd | None
    mapserv_log: str
    nginx_log: str

    @property
    def private_mode(self) -> int:
        """The mode of files that only the serving account may read: of its group, unless it is the owner itself."""
        return 0o640 if self.account else 0o600

    @property
    def conf(self) -> Path:
        return self.path / "conf"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def socket(self) -> Path:
        return self.path / "run" / "mapserv.sock"

    @property
    def static(self) -> Path:
        return self.path / "static"

    @property
    def collections(self) -> Path:
        return self.path / "collections.json"

    @classmethod
    def create(cls, path: Path, account: pwd.struct_passwd | None, log_to_stderr: bool) -> "_RunDirectory":
        """Create the directory and its folders.

        The workers may write only to their socket's folder and to their log: a compromised worker must not be able to change what
        root reads at the next start.
        """
        mapserv_log, nginx_log = path / "logs" / "mapserv.log", path / "logs" / "nginx-error.log"
        run = cls(path, account, *((_STDERR, _STDERR) if log_to_stderr else (str(mapserv_log), str(nginx_log))))
        if not NGINX_JAVASCRIPT.exists():
            raise ConfigurationError(f"{NGINX_JAVASCRIPT} is missing: install the package libnginx-mod-http-js.")
        if len(os.fsencode(run.socket)) + _WORKER_NUMBER_BYTES > _MAX_SOCKET_PATH_BYTES:
            raise ConfigurationError(f"{run.socket} is too long for a Unix socket: choose a shorter run directory.")
        for folder in (run.conf, run.logs, run.socket.parent, path / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        mapserv_log.touch()
        for writable in (run.socket.parent, mapserv_log):
            change_owner(writable, account)
        return run


def _write_mapserver_config(
    run: _RunDirectory, database: PostgresService, archive: ArchiveDescription, gdal_options: Mapping[str, str]
) -> None:
    """Write everything that mapserv reads except the mapfiles of collections."""
    conf, service_file = run.conf, run.conf / "pg_service.conf"
    # Of root, and only readable for the account: a worker that was taken over must not change what the next one reads.
    write_atomically(service_file, _service_file(database), mode=run.private_mode, reader=run.account)
    write_atomically(conf / "health.map", render_template("health.map.j2", service=SERVICE))
    for name, text in statewide_map.render_documents(SERVICE, archive).items():
        write_atomically(conf / name, text)
    aliases = {name: conf / f"{name}.map" for name in (_HEALTH, statewide_map.NAME)}
    options = {"html_templates": f"{_write_feature_templates(conf)}/", "gdal_options": gdal_options, "aliases": aliases}
    write_atomically(
        conf / "mapserver.conf", render_template("mapserver.conf.j2", **options), mode=run.private_mode, reader=run.account
    )
    fastcgi = render_template("fastcgi.conf.j2", service_file=service_file, error_log=run.mapserv_log)
    write_atomically(conf / "fastcgi.conf", fastcgi)


def _write_feature_templates(conf: Path) -> Path:
    """The folder of the HTML pages of OGC API Features: MapServer's, but its API page would load a script of another site."""
    folder = conf / "ogcapi"
    folder.mkdir(exist_ok=True)
    for source in (*_FEATURE_TEMPLATES.glob("*.html"), TEMPLATES / "openapi.html"):
        write_atomically(folder / source.name, source.read_bytes())
    return folder


def _write_nginx_config(run: _RunDirectory, options: Mapping[str, object]) -> None:
    """Write nginx.conf and the files that it includes. `options`: the template values that depend on `write_config`'s caller."""
    conf = run.conf
    fixed = {
        "run": run.path, "conf": conf, "socket": run.socket, "static": run.static, "error_log": run.nginx_log,
        "user": run.account.pw_name if run.account else None, "javascript_module": NGINX_JAVASCRIPT, "health": _HEALTH,
        "catalog": statewide_map.NAME, "catalog_layers": statewide_map.TILE_LAYERS, "archive_document": ARCHIVE_DOCUMENT,
        "photographs": statewide_map.PHOTOGRAPHS,
        "health_file": HEALTH_FILE, "metrics_file": METRICS_FILE,
    }  # fmt: skip
    for script in _NGINX_SCRIPTS:
        write_atomically(conf / script.name, script.read_text())
    for image in TEMPLATES.glob("blank.*"):
        write_atomically(conf / image.name, image.read_bytes())
    for name in ("variables.conf", "nginx.conf"):
        write_atomically(conf / name, render_template(f"{name}.j2", **fixed, **options))


def _workers_argv(run: _RunDirectory, options: Mapping[str, object]) -> tuple[str, ...]:
    fixed = {"--socket": run.socket, "--config": run.conf / "mapserver.conf", "--mapserv": MAPSERV}
    user = {"--user": run.account.pw_name} if run.account else {}
    arguments = [str(argument) for option in {**fixed, **options, **user}.items() for argument in option]
    return (sys.executable, "-m", "mapserver.workers", *arguments)


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0))


def _service_file(database: PostgresService) -> str:
    """The PostgreSQL service file of mapserv. Raises ConfigurationError for a value with a line break."""
    fields = {"host": database.host, "port": database.port, "dbname": database.dbname, "user": database.user}
    if database.password is not None:
        fields["password"] = database.password
    if database.sslmode is not None:
        fields["sslmode"] = database.sslmode
    # Fail before a database that hangs blocks every worker.
    fields["connect_timeout"] = 5
    if any("\n" in str(value) for value in fields.values()):
        raise ConfigurationError("A database setting contains a line break: remove it.")
    return f"[{SERVICE}]\n" + "".join(f"{name}={value}\n" for name, value in fields.items())
