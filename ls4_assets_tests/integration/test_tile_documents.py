"""TileJSON and WMTS capabilities as the pipeline publishes, renews and withdraws them."""

import json
from pathlib import Path

from affine import Affine

from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from mapserver.tiles import tilejson_findings, wmts_findings

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
DOCUMENTS = ("mapfiles/travis_usda_1958_frames.tilejson", "mapfiles/travis_usda_1958_frames.wmts")


def photo(folder: Path, seed: int) -> bytes:
    place = Affine(1, 0, -10_880_000.0, 0, -1, 3_540_000.0)
    return write_tif(folder / f"{seed}.tif", photograph(300, 320, 1, seed), transform=place).read_bytes()


def version(platform: Platform) -> int:
    """The one that the documents bear, and the page's list too."""
    texts = [platform.storage.read(key).decode() for key in DOCUMENTS]
    assert tilejson_findings(texts[0]) == wmts_findings(texts[1]) == []
    held = json.loads(texts[0])
    number = int(held["version"].split(".")[1])
    (listed,) = json.loads(platform.storage.read("derived/collections.json"))["collections"]
    assert listed["version"] == number
    assert held["tiles"] == [f"/tiles/travis_usda_1958_frames/{{z}}/{{x}}/{{y}}.png?v={number}"]
    assert f"{{TileRow}}.png?v={number}" in texts[1]
    # frames of a metre a pixel are seen whole at zoom 18
    assert held["maxzoom"] == 18
    return number


def test_documents_come_with_the_map_grow_with_each_change_and_go_with_it(cluster: Cluster, tmp_path: Path) -> None:
    with running_platform(cluster, tmp_path) as platform:
        platform.drop(KEY, photo(tmp_path, 7))
        platform.settle()
        first = version(platform)
        platform.drop(KEY, photo(tmp_path, 8))
        platform.settle()
        assert version(platform) > first
        platform.storage.delete(KEY)
        platform.settle()
        assert [platform.storage.head(key) for key in DOCUMENTS] == [None, None]
