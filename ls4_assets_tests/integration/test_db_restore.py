"""A lost database is restored from the bucket alone, or from a dump that is older than the bucket."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from affine import Affine
from click.testing import CliRunner
from sqlalchemy import make_url

from ls4_assets.cli.main import main
from ls4_assets.db.bootstrap import bootstrap
from ls4_assets.local.postgres import Cluster, postgres_bin_dir
from ls4_assets_tests.integration.test_reconcile import (
    COLLECTION,
    FIRST,
    FOLDER,
    FRAMES,
    KEYS,
    TABLE,
    execute,
    fill,
    index_locations,
    reconcile,
    run_command,
)
from ls4_assets_tests.platform import PASSWORDS, Platform, frame_of, running_platform
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif

LATE = f"{FOLDER}/georef/02-08-60_6-001.tif"
NEW = f"{FOLDER}/georef/02-08-60_6-150.tif"


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    """Four frames on the map, in an order that is not that of their names."""
    with running_platform(cluster, tmp_path) as running:
        fill(running, tmp_path)
        running.drop(LATE, tif(tmp_path, 7))
        running.settle()
        running.rebuild()
        yield running


def tif(folder: Path, seed: int) -> bytes:
    place = Affine(1, 0, WEST + 250 * seed, 0, -1, NORTH)
    return write_tif(folder / "drop.tif", photograph(300, 320, seed=seed), transform=place).read_bytes()


def lose_databases(platform: Platform) -> None:
    """Empty the index database and that of Dagster."""
    execute(platform, f"DROP TABLE public.{TABLE}; TRUNCATE ls4.source, ls4.frame, ls4.collection, overview_mosaics CASCADE")
    platform.instance.wipe()
    for name in ("frames/Travis", "collections/Travis"):
        for key in platform.instance.get_dynamic_partitions(name):
            platform.instance.delete_dynamic_partition(name, key)


def run_restore(platform: Platform, *options: str) -> str:
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    environment = settings | {"DAGSTER_HOME": str(platform.instance.root_directory)}
    return CliRunner().invoke(main, ["db", "restore", *options], env=environment).output


def stacking_order(platform: Platform) -> list[object]:
    return [row["location"] for row in platform.rows(f"SELECT location FROM {TABLE} ORDER BY oid")]


def test_a_lost_database_is_restored_from_the_bucket_alone(platform: Platform, tmp_path: Path) -> None:
    order = stacking_order(platform)
    assert order != sorted(str(location) for location in order)
    published = {frame: platform.storage.head(frame.cog_key) for frame in FRAMES}
    version = platform.rows("SELECT index_revision AS v FROM ls4.collection")[0]["v"]
    platform.drop(NEW, tif(tmp_path, 12))
    platform.drop(f"{FOLDER}/georef/no frame.tif", b"x")
    lose_databases(platform)

    assert "4 to adopt" in run_restore(platform)
    assert platform.rows("SELECT * FROM ls4.source") == []
    output = run_restore(platform, "--apply")
    assert "4 adopted" in output
    assert "1 georef tifs have no COG to adopt and will be processed; 1 are rejected by name." in output
    # The map has its former order before anything else has run.
    assert stacking_order(platform) == order

    assert all(run.success for run in [*platform.settle(), *platform.rebuild()])
    assert stacking_order(platform) == [*order, f"/vsis3/{platform.storage.bucket}/{frame_of(NEW).cog_key}"]
    assert {frame: platform.storage.head(frame.cog_key) for frame in FRAMES} == published
    assert {platform.state(key) for key in (*KEYS, LATE, NEW)} == {("done", None)}
    row = platform.rows("SELECT index_revision AS v, published_at, frames FROM ls4.collection")[0]
    assert int(str(row["v"])) > int(str(version)) and row["published_at"] and row["frames"] == 5
    assert len(platform.instance.get_dynamic_partitions("frames/Travis")) == 5
    assert set(platform.partitions("Travis", "cog").values()) == {"MATERIALIZED"}
    assert reconcile(platform) == []


@pytest.mark.slow
def test_frames_without_a_shapefile_are_stacked_by_name_with_a_message(platform: Platform) -> None:
    platform.storage.delete(COLLECTION.tile_index_key("bw", "_idx.zip"))
    lose_databases(platform)
    assert "has no shapefile with its stacking order" in run_restore(platform, "--apply")
    platform.settle()
    assert stacking_order(platform) == sorted(str(location) for location in stacking_order(platform))
    assert len(stacking_order(platform)) == 4


@pytest.mark.slow
def test_a_database_with_frames_or_without_tables_is_rejected(platform: Platform, cluster: Cluster) -> None:
    before = platform.rows("SELECT * FROM ls4.source ORDER BY key")
    assert "fix it with `ls4 reconcile`." in run_restore(platform, "--apply")
    assert platform.rows("SELECT * FROM ls4.source ORDER BY key") == before
    execute(platform, "DROP VIEW archive_frames, archive_collections; ALTER TABLE ls4.frame RENAME TO frame_away")
    try:
        assert "create them with `ls4 db init`" in run_restore(platform, "--apply")
    finally:
        execute(platform, "ALTER TABLE ls4.frame_away RENAME TO frame")
        bootstrap(cluster.admin_url, PASSWORDS)


@pytest.mark.slow
def test_a_dump_older_than_the_bucket_catches_up_automatically(platform: Platform, cluster: Cluster, tmp_path: Path) -> None:
    """pg_dump at night, changes by day, pg_restore in the evening: the next scans see everything that changed since the dump."""
    for database in ("ls4", "dagster"):
        postgres(cluster, "pg_dump", "-Fc", "-f", str(tmp_path / f"{database}.dump"), database)
    platform.drop(NEW, tif(tmp_path, 12))
    platform.drop(KEYS[1], tif(tmp_path, 13))
    platform.storage.delete(KEYS[2])
    platform.settle()
    platform.rebuild()
    assert len(index_locations(platform)) == 4
    version = platform.rows("SELECT index_revision AS v FROM ls4.collection")[0]["v"]

    lose_databases(platform)
    for database in ("ls4", "dagster"):
        options = ["--clean", "--if-exists", "--exit-on-error", "-d", database]
        postgres(cluster, "pg_restore", *options, str(tmp_path / f"{database}.dump"))
    assert len(platform.rows("SELECT * FROM ls4.frame")) == 4
    for _ in range(2):
        assert all(run.success for run in [*platform.settle(), *platform.rebuild()])
    keys = [frame_of(key).cog_key for key in (LATE, KEYS[0], KEYS[1], NEW)]
    assert index_locations(platform) == [f"/vsis3/{platform.storage.bucket}/{key}" for key in keys]
    assert platform.storage.head(FRAMES[2].cog_key) is None
    row = platform.rows("SELECT index_revision AS v FROM ls4.collection")[0]
    assert int(str(row["v"])) > int(str(version))
    # The COG made after the dump for the replaced frame, under its own key, is an orphan.
    removed = [action.target for report in reconcile(platform, apply=True) for action in report.actions]
    assert all(target.startswith("derived/") for target in removed), removed
    assert reconcile(platform) == []
    assert platform.storage.head(FIRST.cog_key)


def postgres(cluster: Cluster, program: str, *arguments: str) -> None:
    url = make_url(cluster.admin_url)
    connection = ["-h", str(url.host), "-p", str(url.port), "-U", str(url.username)]
    environment = os.environ | {"PGPASSWORD": str(url.password)}
    done = subprocess.run(
        [str(postgres_bin_dir() / program), *connection, *arguments], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_a_lost_database_or_an_unmounted_disk_is_an_error(platform: Platform, tmp_path: Path) -> None:
    result = run_command(platform, "reconcile", "--apply", storage=str(tmp_path / "elsewhere"))
    assert "elsewhere does not exist; mount or create it" in result
    (tmp_path / "empty").mkdir()
    result = run_command(platform, "reconcile", "--apply", storage=str(tmp_path / "empty"))
    assert "mount the disk, or correct LS4_STORAGE" in result
    execute(platform, "TRUNCATE ls4.source, ls4.frame, ls4.collection CASCADE")
    assert "restore a lost database with `ls4 db restore`" in run_command(platform, "reconcile", "--apply")
    assert platform.storage.head(FIRST.cog_key)
