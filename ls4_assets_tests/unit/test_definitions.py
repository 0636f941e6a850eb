"""The asset graph as Dagster loads it; an accidental change of lineage fails here."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

from ls4_assets.assets import keys
from ls4_assets.assets.details import CODE_KEY, DEFAULT_DETAILS, LEVEL_TAG, AssetDetails, Level
from ls4_assets.definitions import build_definitions
from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.names import Shards
from ls4_assets_tests.platform import CHECKOUT
from resources.archive import Archive


@pytest.fixture(scope="module")
def graph() -> AssetGraph:
    return build_definitions(read_archive_file(None).naming.shards, Archive(), 5).resolve_asset_graph()


@pytest.fixture(scope="module")
def specs() -> list[dg.AssetSpec]:
    return _specs(read_archive_file(None).naming.shards, DEFAULT_DETAILS)


def _specs(shards: Shards, details: AssetDetails) -> list[dg.AssetSpec]:
    return [*build_definitions(shards, Archive(), 5, details=details).resolve_all_asset_specs()]


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
        "collection_frames": ["Travis/cog"],
        "tile_index": ["Travis/collection_frames"],
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
        ("collection_frames", "tile_index", "overview_mosaic", "mapfile", "exports"), collections
    )
    assert {node.group_name for node in nodes.values()} == {"VanZandt"}


def test_every_shard_has_nine_assets(graph: AssetGraph) -> None:
    assert len(graph.get_all_asset_keys()) == 9 * len(read_archive_file(None).naming.shards) + 4


def test_every_asset_shows_owner_kind_level_description_and_code(specs: list[dg.AssetSpec]) -> None:
    """A new asset that lacks one of them shows up here; docs/extending.md says where each comes from."""
    assert len(specs) == 9 * len(read_archive_file(None).naming.shards) + 4
    incomplete = {spec.key.path[-1]: missing for spec in specs if (missing := [*_missing_fields(spec)])}
    assert not incomplete, f"pass `**details.of(function, level)`, `kinds` and `description` to {incomplete}"


def _missing_fields(spec: dg.AssetSpec) -> Iterator[str]:
    if not spec.owners:
        yield "owners"
    if not spec.kinds:
        yield "kinds"
    if spec.tags.get(LEVEL_TAG) not in get_args(Level):
        yield LEVEL_TAG
    if not spec.description:
        yield "description"
    if spec.group_name in (None, "default"):
        yield "group_name"
    if CODE_KEY not in spec.metadata:
        yield "code reference"


def test_incomplete_asset_is_recognized() -> None:
    fields = ["owners", "kinds", LEVEL_TAG, "description", "group_name", "code reference"]
    assert [*_missing_fields(dg.AssetSpec("new"))] == fields


def test_level_is_what_an_asset_has_partitions_of(specs: list[dg.AssetSpec]) -> None:
    for spec in specs:
        partitions = spec.partitions_def.name if isinstance(spec.partitions_def, dg.DynamicPartitionsDefinition) else None
        level = (partitions or "archive").partition("/")[0].rstrip("s")
        assert spec.tags[LEVEL_TAG] == level, spec.key


def test_code_references_lead_to_the_function_that_builds_the_asset(specs: list[dg.AssetSpec]) -> None:
    local = {spec.key.path[-1]: _reference_of(spec) for spec in specs}
    for name, reference in local.items():
        assert isinstance(reference, dg.LocalFileCodeReference)
        lines = Path(reference.file_path).read_text().splitlines()
        assert f"def {reference.label}(" in lines[(reference.line_number or 0) - 1], name
    assert local["cog"].label == "materialize_frames"
    details = AssetDetails(("ana@valley.example",), "https://git.example/ls4/tree/v1")
    linked = {spec.key.path[-1]: spec for spec in _specs({"Travis": "county"}, details)}
    line = local["mapfile"].line_number  # type: ignore[union-attr]
    assert _reference_of(linked["mapfile"]) == dg.UrlCodeReference(
        url=f"https://git.example/ls4/tree/v1/ls4_assets/assets/collections.py#L{line}", label="publish_map"
    )
    assert {type(_reference_of(spec)) for spec in linked.values()} == {dg.UrlCodeReference}
    assert {tuple(spec.owners) for spec in linked.values()} == {("ana@valley.example",)}


def _reference_of(spec: dg.AssetSpec) -> dg.LocalFileCodeReference | dg.UrlCodeReference:
    value = spec.metadata[CODE_KEY]
    assert isinstance(value, dg.CodeReferencesMetadataValue)
    (reference,) = value.code_references
    return reference


def test_only_assets_that_are_built_daily_have_a_freshness_policy(specs: list[dg.AssetSpec]) -> None:
    """Dagster stores an event for every change of freshness of every asset that has a policy."""
    assert {spec.key for spec in specs if spec.freshness_policy} == {keys.ARCHIVE_CONSISTENCY, keys.COMPILED_INDEXES}


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


def run_dg(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Result of `.ci/defs`, which `make defs` runs: `dg check defs`, then `dg list defs`."""
    command = [str(CHECKOUT / ".ci" / "defs"), *arguments]
    variables = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_dg_checks_and_lists_the_definitions(tmp_path: Path) -> None:
    result = run_dg("--json", HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "All definitions loaded successfully" in result.stderr
    listed = json.loads(result.stdout)
    (mapfile,) = [asset for asset in listed["assets"] if asset["asset_key"] == "Travis/mapfile"]
    assert (mapfile["kinds"], mapfile["owners"], mapfile["group_name"]) == (["mapserver"], [{"team": "operators"}], "Travis")
    assert len(listed["assets"]) == 9 * len(read_archive_file(None).naming.shards) + 4
    assert {each["name"] for each in listed["schedules"]} == {"archive_audit", "prune_history", "reconcile"}
    assert "publish_collections" in {each["name"] for each in listed["sensors"]}


def test_dg_reports_definitions_that_do_not_load(tmp_path: Path) -> None:
    result = run_dg(HOME=str(tmp_path), LS4_ASSET_OWNERS="operators")
    assert result.returncode != 0
    assert "'operators' is not an owner" in result.stderr + result.stdout
