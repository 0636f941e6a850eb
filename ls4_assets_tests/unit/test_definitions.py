"""The asset graph as Dagster loads it; an accidental change of lineage fails here."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from ls4_assets.definitions import build_definitions
from ls4_assets.domain.archive_file import read_archive_file
from resources.archive import Archive


@pytest.fixture(scope="module")
def graph() -> AssetGraph:
    return build_definitions(read_archive_file(None).naming.shards, Archive(), 5).resolve_asset_graph()


def test_lineage_of_a_shard(graph: AssetGraph) -> None:
    parents = {
        node.key.path[1]: sorted(parent.to_user_string() for parent in node.parent_keys)
        for node in graph.asset_nodes
        if node.key.path[0] == "Travis"
    }
    assert parents == {
        "georef": [],
        "deflate": ["Travis/georef"],
        "overviews": ["Travis/deflate"],
        "cog": ["Travis/overviews"],
        "tile_index": ["Travis/cog"],
        "overview_mosaic": ["Travis/tile_index"],
        "mapfile": ["Travis/overview_mosaic"],
        "exports": ["Travis/mapfile"],
    }


def test_assets_of_a_shard_have_its_partition_sets_and_group(graph: AssetGraph) -> None:
    nodes = {node.key.path[1]: node for node in graph.asset_nodes if node.key.path[0] == "VanZandt"}
    definitions = {name: node.partitions_def for name, node in nodes.items()}
    sets = {
        name: partitions.name
        for name, partitions in definitions.items()
        if isinstance(partitions, dg.DynamicPartitionsDefinition)
    }
    frames, collections = "frames/VanZandt", "collections/VanZandt"
    assert sets == dict.fromkeys(("georef", "deflate", "overviews", "cog"), frames) | dict.fromkeys(
        ("tile_index", "overview_mosaic", "mapfile", "exports"), collections
    )
    assert {node.group_name for node in nodes.values()} == {"VanZandt"}


def test_every_shard_has_eight_assets(graph: AssetGraph) -> None:
    assert len(graph.get_all_asset_keys()) == 8 * len(read_archive_file(None).naming.shards) + 3


def test_code_location_loads_from_another_folder(tmp_path: Path) -> None:
    """The Dagster UI did not find the package if it was started in another folder."""
    environment = {
        "LS4_STORAGE": str(tmp_path),
        "LS4_DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/none",
        "LS4_PUBLIC_URL": "http://x",
        "LS4_MAP_URL": "http://x",
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
    }
    workspace = Path(__file__).resolve().parents[2] / "workspace.yaml"
    command = [str(Path(sys.executable).parent / "dagster"), "definitions", "validate", "-w", str(workspace)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
