"""The seam of the storages: only `resources` has their classes and GDAL paths, and every kind is in every table."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from docs.generate import REFERENCE
from ls4_assets.domain import storages
from ls4_assets.domain.storages import KINDS, Capabilities, StorageKind, parse_address
from ls4_assets.errors import ConfigurationError
from ls4_assets.settings import Settings
from resources import buckets

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("ls4_assets", "mapserver", "resources", "sensors")
MODULES = {str(path.relative_to(CHECKOUT)): path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py")}
# Of GDAL's file systems, those that are not for local archives, public URLs and memory.
CLOUD_PATH = re.compile("/vsi(?!zip/|curl/|mem/)[a-z0-9_]+/")
# The function that gives the legacy column `location`, the same for every storage.
LEGACY = ("ls4_assets/db/tile_index.py", "cog_location")
TABLE = "ls4_assets/domain/storages.py"


def implements_storage(module: str) -> bool:
    return module.startswith("resources/") and module.endswith("_storage.py")


CLASSES = {
    node.name
    for module in MODULES
    if implements_storage(module)
    for node in ast.walk(ast.parse(MODULES[module].read_text()))
    if isinstance(node, ast.ClassDef) and node.name.endswith("Storage")
}


def nodes(module: str) -> Iterator[ast.AST]:
    """The syntax of a module without docstrings, the comments of columns and the legacy function."""
    pending: list[ast.AST] = [ast.parse(MODULES[module].read_text())]
    while pending:
        node = pending.pop()
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_comment = isinstance(node, ast.keyword) and node.arg == "comment"
        is_legacy = isinstance(node, ast.FunctionDef) and (module, node.name) == LEGACY
        if not (is_docstring or is_comment or is_legacy):
            yield node
            pending += ast.iter_child_nodes(node)


def strings(module: str) -> Iterator[str]:
    return (node.value for node in nodes(module) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def names(module: str) -> Iterator[str]:
    """Every name and attribute that the module uses or imports."""
    for node in nodes(module):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name.rpartition(".")[2]


def test_only_the_storages_name_paths_of_gdal() -> None:
    found = {module for module in MODULES if any(CLOUD_PATH.search(text) for text in strings(module))}
    assert {module for module in found if not implements_storage(module)} == set()
    assert found == {module for module in MODULES if implements_storage(module)} - {"resources/directory_storage.py"}


def test_only_the_storages_name_options_of_gdal_for_access() -> None:
    prefixes = tuple({f"{name.partition('_')[0]}_" for kind in KINDS.values() for name in kind.gdal_variables})
    assert {"AWS_", "AZURE_"} <= {*prefixes}
    found = {module for module in MODULES if any(text.startswith(prefixes) and " " not in text for text in strings(module))}
    assert {module for module in found if not implements_storage(module)} == {TABLE}


def test_no_module_asks_for_the_class_or_the_kind_of_a_storage() -> None:
    kinds = {name for name, value in vars(storages).items() if isinstance(value, StorageKind)}
    assert len(kinds) == len(KINDS) and len(CLASSES) >= len(KINDS)
    for module in MODULES:
        if not implements_storage(module) and module not in (TABLE, "resources/buckets.py"):
            assert not {"is_folder", *CLASSES, *kinds} & set(names(module)), module


def test_every_capability_is_asked_for() -> None:
    asked = {name for module in MODULES if module != TABLE for name in names(module)}
    assert {field.name for field in fields(Capabilities)} <= asked


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.scheme)
class TestKind:
    """What a kind of storage needs besides its class; that it is in the contract tests, test_storage_contract.py checks."""

    def test_is_opened_by_its_address(self, kind: StorageKind) -> None:
        opened = buckets.open_bucket(kind.example, buckets.BucketOptions())
        assert opened.capabilities is kind.capabilities
        assert parse_address(kind.example)[0] is kind

    def test_is_documented(self, kind: StorageKind) -> None:
        page = (REFERENCE / "storages.md").read_text()
        assert f"`{kind.example}`" in page
        assert re.search(rf"^## (A )?{kind.name}$", page, re.MULTILINE), f"storages.md has no section of {kind.name}"
        assert kind.example in (Settings.model_fields["storage"].description or "")

    def test_gives_gdal_access_where_its_paths_are_remote(self, kind: StorageKind) -> None:
        assert bool(kind.gdal_variables) != kind.capabilities.has_local_paths


@pytest.mark.parametrize("address", ["ftp://bucket", "s3://", "s3://bucket/folder", "az://", "az://container/folder", "file://"])
def test_wrong_address_is_reported_with_examples(address: str) -> None:
    examples = ", ".join(kind.example for kind in KINDS.values())
    with pytest.raises(ConfigurationError, match=rf"such as {examples}; correct LS4_STORAGE\.$"):
        parse_address(address)


def test_address_has_the_name() -> None:
    addresses = {
        "archive": "archive",
        "file:///srv/archive": "/srv/archive",
        "s3://bucket/": "bucket",
        "az://container": "container",
    }
    assert {address: parse_address(address)[1] for address in addresses} == addresses
