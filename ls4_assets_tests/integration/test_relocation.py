"""An archive folder that was moved is on the map at the next start, before any collection is rebuilt."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ls4_assets.db.relocation import relocate_archive
from ls4_assets.db.tile_index import served_root
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.integration.test_reconcile import COLLECTION, TABLE, fill
from ls4_assets_tests.platform import Platform, running_platform

PATHS = f"""
    SELECT served_location AS path FROM {TABLE} UNION ALL
    SELECT served_location FROM overview_mosaics UNION ALL
    SELECT served_location FROM ls4.overview_mosaic_frame
"""


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    with running_platform(cluster, tmp_path) as running:
        fill(running, tmp_path)
        yield running


def test_every_path_of_the_map_server_follows_the_folder(platform: Platform) -> None:
    """After `mv checkout elsewhere; make demo` the maps were empty pictures with status 200 for three minutes."""
    former = served_root(platform.storage)
    paths = [str(row["path"]) for row in platform.rows(PATHS)]
    assert paths
    assert all(path.startswith(former) for path in paths)
    with platform.database.begin() as connection:
        assert relocate_archive(connection, "/moved%_/") == 1
    assert platform.rows("SELECT name FROM ls4.collection WHERE map_format = ''") == [{"name": COLLECTION.name}]
    moved = [str(row["path"]) for row in platform.rows(PATHS)]
    assert sorted(moved) == sorted(f"/moved%_/{path.removeprefix(former)}" for path in paths)
    assert platform.rows("SELECT name FROM ls4.collection WHERE served_root = '/moved%_/'") == [{"name": COLLECTION.name}]
    with platform.database.begin() as connection:
        assert relocate_archive(connection, former) == 1
        assert relocate_archive(connection, former) == 0
    assert sorted(str(row["path"]) for row in platform.rows(PATHS)) == sorted(paths)


def test_folder_inside_the_former_one_is_inserted_once(platform: Platform) -> None:
    """With two collections, an archive moved to a folder below its former one got that folder's name twice."""
    former = served_root(platform.storage)
    paths = [str(row["path"]) for row in platform.rows(PATHS)]
    with platform.database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO ls4.collection (name, shard, partition, table_name, served_root)"
            f" VALUES ('Travis_USDA_1937_frames', 'Travis', 'USDA_1937/frames', 'travis_usda_1937_frames', '{former}')"
        )
        assert relocate_archive(connection, f"{former}ls4/") == 2
    moved = [str(row["path"]) for row in platform.rows(PATHS)]
    assert sorted(moved) == sorted(f"{former}ls4/{path.removeprefix(former)}" for path in paths)
