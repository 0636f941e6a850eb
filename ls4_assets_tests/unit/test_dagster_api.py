"""Dagster's private API stays in few modules, and the literals that replace its private constants are right."""

import ast
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions import data_version
from dagster._core.storage import dagster_run, tags

from ls4_assets.runtime import dagster_names
from ls4_assets_tests.platform import CHECKOUT

PACKAGES = ("ls4_assets", "resources", "sensors", "mapserver", "deploy")
# The modules that need private API, with the reason. Anything else has a public name in `dg` or in ls4_assets/runtime.
ALLOWED = {
    "ls4_assets/assets/event_store.py": "many events in one transaction; the public API needs three for each",
    "ls4_assets/runtime/backfill_guard.py": "the type of a backfill, which the storage checks before it stores it",
    "ls4_assets/runtime/backfills.py": "storing and reading backfills, as the Dagster UI does",
    "ls4_assets/runtime/code_server.py": "the command and the class of a code server, which `dg` cannot reload in place",
    "ls4_assets/runtime/ecs_launcher.py": "result of the health check of a run launcher, and its configuration",
    "ls4_assets/runtime/instance.py": "error of an instance without DAGSTER_HOME, and the types of its reference and records",
    "ls4_assets/runtime/local_launcher.py": "arguments and process IDs of a run, and the result of its health check",
    "ls4_assets/runtime/read_only.py": "the type of the webserver's context",
    "ls4_assets/runtime/run_process.py": "the command that executes a run",
    "ls4_assets/runtime/storage.py": "freshness records, the configuration of a storage, and the text of an event",
    "ls4_assets/runtime/warm_client.py": "arguments and process IDs of a run in the warm service, and its health",
}


def private_imports(source: str) -> Iterator[str]:
    """Private modules of Dagster and its libraries, and private names, that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, *parts = name.split(".")
            if package.startswith("dagster") and any(part.startswith("_") for part in parts):
                yield name


def modules() -> list[Path]:
    found = [path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py")]
    assert len(found) > 150
    return [path for path in found if not {"node_modules", "cdk.out"} & {*path.parts}]


def test_only_these_modules_import_private_api_of_dagster() -> None:
    found = {path.relative_to(CHECKOUT).as_posix() for path in modules() if any(private_imports(path.read_text()))}
    assert found == ALLOWED.keys(), "use `dg`, or move the code to ls4_assets/runtime and add the module here with the reason"


@pytest.mark.parametrize(
    "line",
    [
        "from dagster._core.events import DagsterEvent",
        "import dagster._serdes",
        "from dagster import _check",
        "def f():\n    from dagster_graphql._x import y",
    ],
)
def test_private_import_is_recognized(line: str) -> None:
    assert [*private_imports(line)]


@pytest.mark.parametrize("line", ["import dagster as dg", "from dagster_aws.ecs import EcsRunLauncher", "from ._x import y"])
def test_public_import_is_not_reported(line: str) -> None:
    assert not [*private_imports(line)]


def test_literals_are_dagsters_own() -> None:
    """A new version of Dagster that renames a tag would leave every frame without its data version."""
    names = dagster_names
    assert (names.CODE_VERSION_TAG, names.DATA_VERSION_TAG) == (data_version.CODE_VERSION_TAG, data_version.DATA_VERSION_TAG)
    assert names.DATA_VERSION_IS_USER_PROVIDED_TAG == data_version.DATA_VERSION_IS_USER_PROVIDED_TAG
    asset = dg.AssetKey(["Travis", "cog"])
    assert names.INPUT_DATA_VERSION_TAG.format(asset="Travis/cog") == data_version.get_input_data_version_tag(asset)
    assert names.INPUT_EVENT_POINTER_TAG.format(asset="Travis/cog") == data_version.get_input_event_pointer_tag(asset)
    assert names.NO_EVENT_POINTER == data_version.NULL_EVENT_POINTER
    assert names.PARTITION_TAG == tags.PARTITION_NAME_TAG
    assert names.PARTITION_RANGE_TAGS == (tags.ASSET_PARTITION_RANGE_START_TAG, tags.ASSET_PARTITION_RANGE_END_TAG)


def test_groups_of_run_states_are_dagsters_own() -> None:
    assert {*dagster_names.ACTIVE_STATUSES} == {*dagster_run.IN_PROGRESS_RUN_STATUSES}
    assert {*dagster_names.UNFINISHED_STATUSES} == {*dagster_run.NOT_FINISHED_STATUSES}
