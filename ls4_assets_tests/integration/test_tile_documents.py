"""TileJSON and WMTS capabilities: published with the map, updated, and withdrawn."""

import json
from pathlib import Path

from affine import Affine

from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from mapserver.tiles import validate_tilejson, validate_wmts

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
DOCUMENTS = ("mapfiles/travis_usda_1958_frames.tilejson", "mapfiles/travis_usda_1958_frames.wmts")


def photo(folder: Path, seed: int) -> bytes:
    place = Affine(1, 0, -10_880_000.0, 0, -1, 3_540_000.0)
    return write_tif(folder / f"{seed}.tif", photograph(300, 320, 1, seed), transform=place).read_bytes()


def published_version(platform: Platform) -> int:
    """The version in the documents, which must equal the version in the list of collections."""
    texts = [platform.storage.read(key).decode() for key in DOCUMENTS]
    assert validate_tilejson(texts[0]) == validate_wmts(texts[1]) == []
    tilejson = json.loads(texts[0])
    version = int(tilejson["version"].split(".")[1])
    (collection,) = json.loads(platform.storage.read("derived/collections.json"))["collections"]
    assert collection["version"] == version
    assert tilejson["tiles"] == [f"/tiles/travis_usda_1958_frames/{{z}}/{{x}}/{{y}}.webp?v={version}"]
    assert f"{{TileRow}}.png?v={version}" in texts[1]
    # A resolution of one meter per pixel needs zoom 18.
    assert tilejson["maxzoom"] == 18
    return version


def test_documents_are_published_updated_and_withdrawn_with_the_map(cluster: Cluster, tmp_path: Path) -> None:
    with running_platform(cluster, tmp_path) as platform:
        platform.drop(KEY, photo(tmp_path, 7))
        platform.settle()
        first = published_version(platform)
        platform.drop(KEY, photo(tmp_path, 8))
        platform.settle()
        assert published_version(platform) > first
        platform.storage.delete(KEY)
        platform.settle()
        assert [platform.storage.head(key) for key in DOCUMENTS] == [None, None]
