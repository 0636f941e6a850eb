"""The files that the serving processes start from."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from ls4_assets.errors import ConfigurationError
from mapserver.config import PostgresService, ServingConfig, write_config

DATABASE = PostgresService("127.0.0.1", 5432, "ls4", "mapserver", "s3cret")


def written(folder: Path, **more: object) -> ServingConfig:
    given = {"port": 8080, "mapfiles_dir": folder / "archive" / "mapfiles", "database": DATABASE} | more
    return write_config(folder / "run", **given)  # type: ignore[arg-type]


def test_the_password_is_in_one_private_file_only(tmp_path: Path) -> None:
    config = written(tmp_path)
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and "s3cret" in path.read_text()]
    assert holding == [tmp_path / "run" / "conf" / "pg_service.conf"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    assert "s3cret" not in " ".join(config.workers_argv + config.nginx_argv)


def test_workers_cannot_write_what_root_reads(tmp_path: Path) -> None:
    written(tmp_path)
    for path in (
        tmp_path / "run" / "conf",
        tmp_path / "run" / "conf" / "nginx.conf",
        tmp_path / "run" / "logs",
    ):
        assert path.stat().st_uid == os.geteuid()


def test_gdal_options_go_to_mapserver_conf_and_bad_names_are_refused(tmp_path: Path) -> None:
    written(tmp_path, gdal_options={"AWS_REGION": 'us"-1', "GDAL_CACHEMAX": "128"})
    text = (tmp_path / "run" / "conf" / "mapserver.conf").read_text()
    assert r'AWS_REGION "us\"-1"' in text
    assert text.count("GDAL_CACHEMAX") == 1
    with pytest.raises(ConfigurationError):
        written(tmp_path, gdal_options={"AWS REGION": "x"})


def test_a_bucket_elsewhere_has_no_archive_location(tmp_path: Path) -> None:
    written(tmp_path)
    assert "^/archive/" not in (tmp_path / "run" / "conf" / "nginx.conf").read_text()
    written(tmp_path, archive_dir=tmp_path / "archive")
    assert "^/archive/" in (tmp_path / "run" / "conf" / "nginx.conf").read_text()


@pytest.mark.parametrize("folder", ["a$b", 'a"b', "a;b", "a\nb", "x" * 120])
def test_paths_that_nginx_or_a_socket_cannot_take_are_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ConfigurationError, match=r": .*\.$"):
        written(tmp_path / folder)
    assert not (tmp_path / folder / "run").exists()


def test_a_path_with_spaces_passes_nginx_own_check(tmp_path: Path) -> None:
    config = written(tmp_path / "my maps", archive_dir=tmp_path / "my maps" / "archive")
    done = subprocess.run([*config.nginx_argv, "-t"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_a_list_of_collections_that_exists_is_kept(tmp_path: Path) -> None:
    config = written(tmp_path)
    config.collections_file.write_text('{"collections": [1]}')
    assert written(tmp_path).collections_file.read_text() == '{"collections": [1]}'


def test_an_ordinary_user_starts_nginx_too(tmp_path: Path) -> None:
    """`make demo` of an ordinary user ended with "No such file or directory: 'nginx'": its PATH has no sbin."""
    program = Path(written(tmp_path).nginx_argv[0])
    assert program.is_absolute() and os.access(program, os.X_OK)
