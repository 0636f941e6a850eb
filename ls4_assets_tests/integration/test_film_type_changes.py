"""Film types that come and go: a collection of one film type, a withdrawn one, and adopted COGs of every film type."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import rasterio

from ls4_assets.domain.exports import MOSAIC
from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.adopt.archive import adopt
from ls4_assets.operations.adopt.collection import AdoptReport
from ls4_assets_tests.integration.test_film_types import COLLECTION, TABLE, drop, every_film_type, frame_of, reconciled
from ls4_assets_tests.platform import Platform, running_platform


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    with running_platform(cluster, tmp_path) as platform:
        yield platform


@every_film_type
def test_mosaic_of_one_film_type_has_its_bands(platform: Platform, film_type: FilmType, tmp_path: Path) -> None:
    drop(platform, film_type, tmp_path)
    platform.settle()
    (row,) = platform.rows("SELECT served_location FROM public.overview_mosaics")
    with rasterio.open(row["served_location"]) as mosaic:
        assert mosaic.count == FILM_TYPES[film_type].bands


def test_cogs_of_every_film_type_are_adopted_and_withdrawn(platform: Platform, tmp_path: Path) -> None:
    dropped = [drop(platform, film_type, tmp_path) for film_type in FILM_TYPES]
    platform.settle()
    cogs = {frame_of(film_type).cog_key: platform.storage.read(frame_of(film_type).cog_key) for film_type in FILM_TYPES}
    platform.storage.delete(dropped[-1])
    platform.settle()
    platform.skip_waits()
    platform.settle()
    last = [*FILM_TYPES][-1]
    assert platform.rows(f"SELECT band FROM {TABLE} WHERE band = :band", band=last) == []
    assert platform.storage.head(MOSAIC.key_of(COLLECTION, last)) is None
    assert platform.storage.head(COLLECTION.tile_index_key(last, "_idx.zip")) is None
    platform.drop(frame_of(last).cog_key, cogs[frame_of(last).cog_key])
    (report,) = adopt(platform.settings, [COLLECTION], platform.instance.get_ref())
    assert isinstance(report, AdoptReport), report
    assert report.problems == {} and report.adopted == 1
    platform.rebuild()
    assert {row["band"] for row in platform.rows(f"SELECT band FROM {TABLE}")} == {*FILM_TYPES}
    assert reconciled(platform) == []
