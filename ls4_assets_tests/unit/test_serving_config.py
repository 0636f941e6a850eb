"""The configuration files of the serving processes."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from ls4_assets.errors import ConfigurationError
from mapserver.config import PostgresService, ServingConfig, write_config

DATABASE = PostgresService("127.0.0.1", 5432, "ls4", "mapserver", "s3cret")


def write(folder: Path, **options: object) -> ServingConfig:
    arguments = {"port": 8080, "mapfiles_dir": folder / "archive" / "mapfiles", "database": DATABASE} | options
    return write_config(folder / "run", **arguments)  # type: ignore[arg-type]


def test_password_is_in_one_private_file_only(tmp_path: Path) -> None:
    config = write(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert files == [tmp_path / "run" / "conf" / "pg_service.conf"]
    # Of the group of the map server when root owns it.
    assert stat.S_IMODE(files[0].stat().st_mode) == (0o640 if os.geteuid() == 0 else 0o600)
    assert "s3cret" not in " ".join(config.workers_argv + config.nginx_argv)


def test_workers_cannot_write_what_root_reads(tmp_path: Path) -> None:
    write(tmp_path)
    for path in (
        tmp_path / "run" / "conf",
        tmp_path / "run" / "conf" / "nginx.conf",
        tmp_path / "run" / "logs",
    ):
        assert path.stat().st_uid == os.geteuid()


def test_gdal_options_are_in_mapserver_conf_and_invalid_names_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, gdal_options={"AWS_REGION": 'us"-1', "GDAL_CACHEMAX": "128"})
    text = (tmp_path / "run" / "conf" / "mapserver.conf").read_text()
    assert r'AWS_REGION "us\"-1"' in text
    assert text.count("GDAL_CACHEMAX") == 1
    with pytest.raises(ConfigurationError):
        write(tmp_path, gdal_options={"AWS REGION": "x"})


def test_archive_location_exists_only_for_a_folder(tmp_path: Path) -> None:
    write(tmp_path)
    assert "^/archive/" not in (tmp_path / "run" / "conf" / "nginx.conf").read_text()
    write(tmp_path, archive_dir=tmp_path / "archive")
    assert "^/archive/" in (tmp_path / "run" / "conf" / "nginx.conf").read_text()


@pytest.mark.parametrize("folder", ["a$b", 'a"b', "a;b", "a\nb", "x" * 120])
def test_paths_that_nginx_or_a_socket_cannot_use_are_rejected(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ConfigurationError, match=r": .*\.$"):
        write(tmp_path / folder)
    assert not (tmp_path / folder / "run").exists()


def test_path_with_spaces_passes_nginx_own_check(tmp_path: Path) -> None:
    config = write(tmp_path / "my maps", archive_dir=tmp_path / "my maps" / "archive")
    done = subprocess.run([*config.nginx_argv, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_existing_list_of_collections_is_kept(tmp_path: Path) -> None:
    config = write(tmp_path)
    config.collections_file.write_text('{"collections": [1]}')
    assert write(tmp_path).collections_file.read_text() == '{"collections": [1]}'


def test_ordinary_user_can_start_nginx(tmp_path: Path) -> None:
    """`make demo` of an ordinary user failed with "No such file or directory: 'nginx'": the user's PATH has no sbin."""
    program = Path(write(tmp_path).nginx_argv[0])
    assert program.is_absolute() and os.access(program, os.X_OK)


def test_proxies_are_addresses_or_networks(tmp_path: Path) -> None:
    write(tmp_path, proxies=["10.0.0.0/8", "fd00::1"])
    text = (tmp_path / "run" / "conf" / "variables.conf").read_text()
    assert "10.0.0.0/8 yes;" in text and "fd00::1/128 yes;" in text
    for invalid in ("balancer.internal", "10.0.0.1/8", "0 yes; } #"):
        with pytest.raises(ConfigurationError, match=r": .*\.$"):
            write(tmp_path, proxies=[invalid])


@pytest.mark.parametrize("megabytes", [0, 64])
def test_tile_cache_is_limited_or_disabled(tmp_path: Path, megabytes: int) -> None:
    config = write(tmp_path, tile_cache_mb=megabytes)
    done = subprocess.run([*config.nginx_argv, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = "".join((tmp_path / "run" / "conf" / name).read_text() for name in ("nginx.conf", "variables.conf"))
    assert ("max_size=64m" in text) == (megabytes == 64)
    assert ("fastcgi_cache" in text) == (megabytes > 0)


def test_a_bucket_gets_twice_the_workers_of_a_folder(tmp_path: Path) -> None:
    def workers(**options: object) -> int:
        argv = write(tmp_path, **options).workers_argv
        return int(argv[argv.index("--workers") + 1])

    assert workers() == 2 * workers(archive_dir=tmp_path / "archive") > 0
    assert workers(workers=3) == 3


def test_missing_javascript_module_error_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapserver.config.NGINX_JAVASCRIPT", tmp_path / "none.so")
    with pytest.raises(ConfigurationError, match="libnginx-mod-http-js"):
        write(tmp_path)


def test_statewide_map_has_no_state_and_no_host(tmp_path: Path) -> None:
    write(tmp_path)
    conf = tmp_path / "run" / "conf"
    for suffix in (".map", ".tilejson", ".wmts", ".html"):
        text = (conf / f"catalog{suffix}").read_text()
        assert str(tmp_path) not in text and "127.0.0.1" not in text
    text = (conf / "catalog.map").read_text()
    assert set(re.findall(r'CONNECTION "(.*)"', text)) == {"service=ls4"}
