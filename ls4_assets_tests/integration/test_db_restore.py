"""A database that was lost: restored from the bucket alone, or from a dump that is older than the bucket."""

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
from ls4_assets.local.postgres import Cluster, binaries
from ls4_assets_tests.integration.test_reconcile import (
    FIRST,
    FOLDER,
    FRAMES,
    KEYS,
    OF,
    TABLE,
    command,
    execute,
    fill,
    reconciled,
    shown,
)
from ls4_assets_tests.platform import PASSWORDS, Platform, frame_of, running_platform
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif

LATE = f"{FOLDER}/georef/02-08-60_6-001.tif"
NEW = f"{FOLDER}/georef/02-08-60_6-150.tif"


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    """Four frames on the map; the last in order of names came first, and the first came last."""
    with running_platform(cluster, tmp_path) as running:
        fill(running, tmp_path)
        running.drop(LATE, tif(tmp_path, 7))
        running.settle()
        running.rebuild()
        yield running


def tif(folder: Path, seed: int) -> bytes:
    place = Affine(1, 0, WEST + 250 * seed, 0, -1, NORTH)
    return write_tif(folder / "drop.tif", photograph(300, 320, seed=seed), transform=place).read_bytes()


def lose(platform: Platform) -> None:
    """Index database and Dagster's are empty as on their first day."""
    execute(platform, f"DROP TABLE public.{TABLE}; TRUNCATE ls4.source, ls4.frame, ls4.collection, overview_mosaics CASCADE")
    platform.instance.wipe()
    for name in ("frames/Travis", "collections/Travis"):
        for key in platform.instance.get_dynamic_partitions(name):
            platform.instance.delete_dynamic_partition(name, key)


def rebuilt(platform: Platform, *options: str) -> str:
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    environment = settings | {"DAGSTER_HOME": str(platform.instance.root_directory)}
    return CliRunner().invoke(main, ["rebuild", *options], env=environment).output


def stack(platform: Platform) -> list[object]:
    return [row["location"] for row in platform.rows(f"SELECT location FROM {TABLE} ORDER BY oid")]


def test_a_lost_database_is_restored_from_the_bucket_alone(platform: Platform, tmp_path: Path) -> None:
    order = stack(platform)
    assert order != sorted(str(one) for one in order)
    published = {frame: platform.storage.head(frame.cog_key) for frame in FRAMES}
    version = platform.rows("SELECT index_revision AS v FROM ls4.collection")[0]["v"]
    platform.drop(NEW, tif(tmp_path, 12))
    platform.drop(f"{FOLDER}/georef/no frame.tif", b"x")
    lose(platform)

    assert "4 to adopt" in rebuilt(platform)
    assert platform.rows("SELECT * FROM ls4.source") == []
    said = rebuilt(platform, "--apply")
    assert "4 adopted" in said
    assert "1 georef tifs have no COG that could be adopted and are made anew; 1 are rejected by name." in said
    # The map is right before anything else has run, in the order that it had.
    assert stack(platform) == order

    assert all(run.success for run in [*platform.settle(), *platform.rebuild()])
    assert stack(platform) == [*order, f"/vsis3/{platform.storage.bucket}/{frame_of(NEW).cog_key}"]
    assert {frame: platform.storage.head(frame.cog_key) for frame in FRAMES} == published
    assert {platform.state(key) for key in (*KEYS, LATE, NEW)} == {("done", None)}
    row = platform.rows("SELECT index_revision AS v, published_at, frames FROM ls4.collection")[0]
    assert int(str(row["v"])) > int(str(version)) and row["published_at"] and row["frames"] == 5
    assert len(platform.instance.get_dynamic_partitions("frames/Travis")) == 5
    assert set(platform.partitions("Travis", "cog").values()) == {"MATERIALIZED"}
    assert reconciled(platform) == []


@pytest.mark.slow
def test_without_a_shapefile_the_order_is_that_of_the_names_and_it_is_said(platform: Platform) -> None:
    platform.storage.delete(OF.tile_index_key("bw", "_idx.zip"))
    lose(platform)
    assert "has no shapefile that tells its stacking order" in rebuilt(platform, "--apply")
    platform.settle()
    assert stack(platform) == sorted(str(one) for one in stack(platform))
    assert len(stack(platform)) == 4


@pytest.mark.slow
def test_a_database_that_holds_frames_or_has_no_tables_is_rejected(platform: Platform, cluster: Cluster) -> None:
    before = platform.rows("SELECT * FROM ls4.source ORDER BY key")
    assert "`ls4 reconcile` mends it." in rebuilt(platform, "--apply")
    assert platform.rows("SELECT * FROM ls4.source ORDER BY key") == before
    execute(platform, "DROP VIEW archive_frames, archive_collections; ALTER TABLE ls4.frame RENAME TO frame_away")
    try:
        assert "make them with `ls4 db init`" in rebuilt(platform, "--apply")
    finally:
        execute(platform, "ALTER TABLE ls4.frame_away RENAME TO frame")
        bootstrap(cluster.admin_url, PASSWORDS)


@pytest.mark.slow
def test_a_dump_that_is_older_than_the_bucket_catches_up_by_itself(platform: Platform, cluster: Cluster, tmp_path: Path) -> None:
    """pg_dump by night, work by day, pg_restore by evening: what came, changed and left since is seen by the next looks."""
    for database in ("ls4", "dagster"):
        postgres(cluster, "pg_dump", "-Fc", "-f", str(tmp_path / f"{database}.dump"), database)
    platform.drop(NEW, tif(tmp_path, 12))
    platform.drop(KEYS[1], tif(tmp_path, 13))
    platform.storage.delete(KEYS[2])
    platform.settle()
    platform.rebuild()
    assert len(shown(platform)) == 4
    version = platform.rows("SELECT index_revision AS v FROM ls4.collection")[0]["v"]

    lose(platform)
    for database in ("ls4", "dagster"):
        options = ["--clean", "--if-exists", "--exit-on-error", "-d", database]
        postgres(cluster, "pg_restore", *options, str(tmp_path / f"{database}.dump"))
    assert len(platform.rows("SELECT * FROM ls4.frame")) == 4
    for _ in range(2):
        assert all(run.success for run in [*platform.settle(), *platform.rebuild()])
    keys = [frame_of(key).cog_key for key in (LATE, KEYS[0], KEYS[1], NEW)]
    assert shown(platform) == [f"/vsis3/{platform.storage.bucket}/{key}" for key in keys]
    assert platform.storage.head(FRAMES[2].cog_key) is None
    row = platform.rows("SELECT index_revision AS v FROM ls4.collection")[0]
    assert int(str(row["v"])) > int(str(version))
    # What the day made of the replaced frame under a key of its own is of no use any more.
    left = [action.target for report in reconciled(platform, apply=True) for action in report.actions]
    assert all(target.startswith("derived/") for target in left), left
    assert reconciled(platform) == []
    assert platform.storage.head(FIRST.cog_key)


def postgres(cluster: Cluster, program: str, *arguments: str) -> None:
    url = make_url(cluster.admin_url)
    connection = ["-h", str(url.host), "-p", str(url.port), "-U", str(url.username)]
    environment = os.environ | {"PGPASSWORD": str(url.password)}
    done = subprocess.run(
        [str(binaries() / program), *connection, *arguments], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_a_lost_database_or_an_unmounted_disk_is_no_plan(platform: Platform, tmp_path: Path) -> None:
    result = command(platform, "reconcile", "--apply", storage=str(tmp_path / "elsewhere"))
    assert "elsewhere is not there; mount or make it" in result
    (tmp_path / "empty").mkdir()
    assert "mount the disk, or correct LS4_STORAGE" in command(platform, "reconcile", "--apply", storage=str(tmp_path / "empty"))
    execute(platform, "TRUNCATE ls4.source, ls4.frame, ls4.collection CASCADE")
    assert "`ls4 rebuild` restores it from the bucket" in command(platform, "reconcile", "--apply")
    assert platform.storage.head(FIRST.cog_key)
