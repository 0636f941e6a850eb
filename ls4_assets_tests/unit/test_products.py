"""The registry of products: each entry has all its parts, and no other module has a list of its own."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import cast, get_args

import pytest

from deploy.aws.keys import NEVER_DROPS, PUBLIC_KEYS, WRITTEN_KEYS
from ls4_assets.domain import products as registry
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.key_parser import parse_product_key
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.products import (
    COG,
    GEOREF,
    PRODUCTS,
    STEPS,
    THUMBNAIL,
    FrameProduct,
    ProductName,
    previous_step,
    upstream_steps,
)
from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.ingest.listing import is_drop_key
from ls4_assets.raster.frame import WRITERS
from ls4_assets_tests.platform import CHECKOUT
from resources.storage import content_type

COLLECTION = Collection("Travis", "USDA_1958", "frames")
FRAMES = [Frame(COLLECTION, film_type, "02-08-60_6-107") for film_type in FILM_TYPES]
# The writers are keyed by product; a test compares them with the registry.
WITH_NAMES = {"ls4_assets/domain/products.py", "ls4_assets/raster/frame.py"}


def key_of(product: FrameProduct, frame: Frame) -> str:
    return product.key.format(folder=frame.folder, collection=frame.collection.name, film_type=frame.film_type, stem=frame.stem)


def matches(patterns: Sequence[str], key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def served_by_nginx(key: str) -> bool:
    """Whether the web front end of one machine serves the key below /archive."""
    template = (CHECKOUT / "mapserver" / "templates" / "nginx.conf.j2").read_text()
    template = template.replace('{{ film_types | join("|") }}', "|".join(FILM_TYPES))
    locations = re.findall(r'location ~ "\^/archive/\(\?<key>(.+)\)\$"', template)
    assert len(locations) == 3
    return any(re.fullmatch(location, key) for location in locations)


def missing_parts(products: Sequence[FrameProduct]) -> list[str]:
    """What is missing for products of this registry, in words of what to do."""
    missing = []
    for position, product in enumerate(products):
        before = {GEOREF, *(each.name for each in products[:position])}
        if product.upstream not in before:
            missing.append(f"{product.name}: its upstream must stand before it")
        if product.name not in WRITERS:
            missing.append(f"{product.name}: add a function to WRITERS in raster/frame.py")
        if product.is_step != (product.name in STEPS):
            missing.append(f"{product.name}: a step must be in the type Step, any other product must not")
        if product.is_step != bool(product.profile_options):
            missing.append(f"{product.name}: a step has options in its hash, any other product has none")
        if product.is_public != bool(product.stac_role):
            missing.append(f"{product.name}: a public product has a role in STAC items, a private one has none")
        for frame in FRAMES:
            missing += missing_rules(product, key_of(product, frame))
    names: list[str] = [product.name for product in products]
    for name in sorted({*get_args(ProductName)}.symmetric_difference(names)):
        missing.append(f"{name}: must be in PRODUCTS and in the type ProductName")
    for unique in (names, [key_of(each, FRAMES[0]) for each in products], [each.work_file for each in products]):
        missing += [f"{value}: stands twice" for value in {value for value in unique if unique.count(value) > 1}]
    return missing


def missing_rules(product: FrameProduct, key: str) -> Iterator[str]:
    if matches(PUBLIC_KEYS, key) != product.is_public:
        yield f"{key}: CloudFront and is_public differ"
    if served_by_nginx(key) != product.is_public:
        yield f"{key}: nginx.conf.j2 and is_public differ"
    yield from missing_storage_rules(key, product.content_type)


def missing_storage_rules(key: str, expected_type: str) -> Iterator[str]:
    """What keeps runs from writing the object, or makes something else of it; also for the exports of a collection."""
    if not matches(WRITTEN_KEYS, key):
        yield f"{key}: runs on AWS may not write it"
    if not matches(NEVER_DROPS, key) or is_drop_key(key):
        yield f"{key}: counts as a drop"
    if content_type(key) != expected_type:
        yield f"{key}: S3 stores it as {content_type(key)}; add the suffix to CONTENT_TYPES in resources/storage.py"


def test_every_product_has_all_its_parts() -> None:
    missing = missing_parts(PRODUCTS)
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        (replace(THUMBNAIL, name=cast(ProductName, "histogram")), "histogram: add a function to WRITERS"),
        (replace(THUMBNAIL, name=cast(ProductName, "histogram")), "histogram: must be in PRODUCTS and in the type ProductName"),
        (replace(THUMBNAIL, is_public=False), "CloudFront and is_public differ"),
        (replace(THUMBNAIL, upstream="histogram"), "its upstream must stand before it"),
        (replace(THUMBNAIL, is_step=True), "a step must be in the type Step"),
        (replace(THUMBNAIL, key="previews/{stem}.webp"), "runs on AWS may not write it"),
        (replace(THUMBNAIL, key="{folder}/georef/{stem}.webp"), "counts as a drop"),
        (replace(THUMBNAIL, key="derived/{collection}/{stem}.avif"), "S3 stores it as application/octet-stream"),
        (replace(THUMBNAIL, work_file=COG.work_file), "stands twice"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_product_without_its_parts_fails(changed: FrameProduct, advice: str) -> None:
    found = missing_parts([*PRODUCTS[:-1], changed])
    assert any(advice in each for each in found), found


def test_every_option_of_a_profile_belongs_to_one_product() -> None:
    """An option that no product names would not make anything stale."""
    options = [option for product in PRODUCTS for option in product.profile_options]
    assert sorted(options) == sorted(FrameProfile.model_fields)


def test_upstream_steps_follow_the_registry() -> None:
    for step in STEPS:
        chain = [step]
        while previous := previous_step(chain[0]):
            chain.insert(0, previous)
        assert tuple(chain[:-1]) == upstream_steps(step)


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.film_type)
def test_key_of_a_product_names_its_frame(product: FrameProduct, frame: Frame) -> None:
    key = frame.product_key(product.name)
    assert parse_product_key(key, COLLECTION) == (product, frame)
    assert parse_product_key(key, replace(COLLECTION, survey="USDA_1959")) is None


def test_keys_that_are_like_those_of_products() -> None:
    frame, folder = FRAMES[0], COLLECTION.folder("bw")
    assert parse_product_key(f"{frame.served_folder}ab-12.tif", COLLECTION) == (COG, frame)
    assert parse_product_key(f"{folder}/cog/02-08-60_6-107.TIF", COLLECTION) == (COG, frame)
    for key in (
        f"{folder}/georef/02-08-60_6-107.tif",
        COLLECTION.tile_index_key("bw", ".shp"),
        f"{folder}/cog/notes.txt",
        f"rgb/{folder[3:]}/cog/02-08-60_6-107.tif",
        COLLECTION.overview_mosaic_key("1"),
    ):
        assert parse_product_key(key, COLLECTION) is None


def lists_of_products(source: str) -> Iterator[int]:
    """Lines with a tuple, list, set or dict that names two products or more, or with a part of a product's key."""
    names = {product.name for product in PRODUCTS}
    fragments = ("georef/deflate", "/thumbnails/", "thumbnails", "served/", "/cog/{")
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts) | ast.Dict(keys=parts):
                found = {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
                if len(found & names) > 1:
                    yield parts[0].lineno if parts[0] else 0
            case ast.Constant(value=str(text), lineno=line):
                if id(node) not in docstrings and any(fragment in text for fragment in fragments):
                    yield line


def test_no_module_has_a_list_of_its_own() -> None:
    """The thumbnail was in no list of products, so a removal had to name it apart."""
    found = [
        f"{name}:{line}"
        for package in ("ls4_assets", "resources", "sensors", "mapserver", "deploy/aws")
        for path in (CHECKOUT / package).rglob("*.py")
        if (name := str(path.relative_to(CHECKOUT))) not in WITH_NAMES
        for line in lists_of_products(path.read_text())
    ]
    assert found == [], "iterate over ls4_assets.domain.products.PRODUCTS or STEPS, and use Frame.product_key"
    assert list(lists_of_products('for step in ("deflate", "cog"): pass'))
    assert list(lists_of_products("key = f'{folder}/georef/deflate/{stem}.tif'"))


def test_registry_names_are_those_of_its_types() -> None:
    assert tuple(product.name for product in registry.PRODUCTS if product.is_step) == STEPS
