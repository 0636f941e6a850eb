"""The registry of a collection's exports: each entry has all its parts, and no other module has a list of its own."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast, get_args

import pytest

from deploy.aws.keys import PUBLIC_KEYS
from ls4_assets.domain import export_keys
from ls4_assets.domain.exports import EXPORTS, FOOTPRINTS_GEOJSON, MOSAIC, CollectionExport, ExportName
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.names import Collection
from ls4_assets.publishing.export_files import WRITERS
from ls4_assets_tests.platform import CHECKOUT
from ls4_assets_tests.unit.test_products import matches, missing_storage_rules, served_by_nginx

COLLECTION = Collection("Travis", "USDA_1958", "frames")


def missing_parts(exports: Sequence[CollectionExport]) -> Iterator[str]:
    """What is missing for exports of this registry, in words of what to do."""
    names: list[str] = [export.name for export in exports]
    fields = [export.listed_as for export in exports if export.listed_as]
    for export in exports:
        if export.name not in WRITERS:
            yield f"{export.name}: add a function to WRITERS in publishing/export_files.py"
        for film_type in export.variants(FILM_TYPES):
            yield from missing_rules(export, export.key_of(COLLECTION, film_type))
    for name in sorted(({*names} ^ {*WRITERS}) | ({*names} ^ {*get_args(ExportName)})):
        yield f"{name}: must be in EXPORTS, in WRITERS and in the type ExportName"
    for unique in (names, [export.key for export in exports], ["stac", *fields]):
        yield from (f"{value}: stands twice" for value in {value for value in unique if unique.count(value) > 1})


def missing_rules(export: CollectionExport, key: str) -> Iterator[str]:
    if not key.startswith(f"derived/{COLLECTION.name}/"):
        yield f"{key}: must be below the folder of its collection"
    if key.startswith(f"{export_keys.stac_folder(COLLECTION)}items/"):
        yield f"{key}: is among the STAC items"
    if not (matches(PUBLIC_KEYS, key) and served_by_nginx(key)):
        yield f"{key}: is not public"
    yield from missing_storage_rules(key, export.content_type)


def test_every_export_has_all_its_parts() -> None:
    missing = list(missing_parts(EXPORTS))
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        (replace(MOSAIC, name=cast(ExportName, "kml")), "kml: add a function to WRITERS"),
        (replace(MOSAIC, key="{collection}.gti.gpkg"), "is not public"),
        (replace(MOSAIC, key="mapfiles/{collection}.gpkg"), "must be below the folder of its collection"),
        (replace(MOSAIC, key="derived/{collection}/mosaic.kml"), "S3 stores it as application/octet-stream"),
        (replace(MOSAIC, key=FOOTPRINTS_GEOJSON.key), "stands twice"),
        (replace(MOSAIC, listed_as="stac"), "stac: stands twice"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_export_without_its_parts_fails(changed: CollectionExport, advice: str) -> None:
    found = list(missing_parts([*EXPORTS[:-1], changed]))
    assert any(advice in each for each in found), found


def test_export_that_is_not_in_the_type_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(MOSAIC, name=cast(ExportName, "kml"))
    monkeypatch.setitem(WRITERS, changed.name, WRITERS[MOSAIC.name])
    assert "kml: must be in EXPORTS, in WRITERS and in the type ExportName" in [*missing_parts([*EXPORTS, changed])]


def parts_of_keys(source: str) -> Iterator[int]:
    """Lines with a part of an export's key."""
    fragments = {export.key.rpartition("}")[2].rpartition("/")[2] for export in EXPORTS}
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text), lineno=line) if id(node) not in docstrings:
                if any(fragment in text for fragment in fragments):
                    yield line


def test_no_module_has_a_list_of_its_own() -> None:
    """The withdrawal had a list of its own, which did not have to name what was written."""
    found = [
        f"{name}:{line}"
        for package in ("ls4_assets", "resources", "sensors", "mapserver", "deploy/aws")
        for path in (CHECKOUT / package).rglob("*.py")
        if (name := str(path.relative_to(CHECKOUT))) != "ls4_assets/domain/exports.py"
        for line in parts_of_keys(path.read_text())
    ]
    assert found == [], "iterate over ls4_assets.domain.exports.EXPORTS, and use CollectionExport.key_of"
    assert list(parts_of_keys("key = f'derived/{collection.name}/footprints.geojson'"))
    assert list(parts_of_keys("key = f'{folder}/{name}_{film_type}.gti.gpkg'"))
