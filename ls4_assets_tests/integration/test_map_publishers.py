"""What every map publisher must do, and what several do together. MapServer's own tests are in test_checks and test_tiles."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from affine import Affine

from ls4_assets.assets.checks import check_published_documents
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.reconcile.run import Reconciler
from ls4_assets.operations.status import collect
from ls4_assets.publishing import maps
from ls4_assets.publishing.map_publisher import MapPublisher
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif

FOLDER = "bw/Travis/USDA_1958/frames"
KEYS = [f"{FOLDER}/georef/02-08-60_6-10{number}.tif" for number in range(2)]
COLLECTION = frame_of(KEYS[0]).collection
MOSAIC = f"derived/{COLLECTION.name}/mosaic.json"
BOTH = {"map_publishers": "mapserver,mosaicjson", "mosaicjson_addresses": "storage"}
PUBLISHERS = list(maps.MAP_PUBLISHERS.values())

per_publisher = pytest.mark.parametrize("publisher", PUBLISHERS, ids=lambda publisher: publisher.name)


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Two frames that overlap, published by every publisher."""
    folder = tmp_path_factory.mktemp("publishers")
    names = ",".join(maps.MAP_PUBLISHERS)
    with running_platform(cluster, folder, map_publishers=names, mosaicjson_addresses="storage") as running:
        drop(running, folder)
        yield running


def drop(platform: Platform, folder: Path) -> None:
    for number, key in enumerate(KEYS):
        place = Affine(1, 0, WEST + 200 * number, 0, -1, NORTH)
        platform.drop(key, write_tif(folder / f"{number}.tif", photograph(300, 320, 1, number), transform=place))
    platform.settle()
    platform.rebuild()


def evaluations(run: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {evaluation.check_name: evaluation.passed for evaluation in run.get_asset_check_evaluations()}


def requested_assets(platform: Platform) -> list[list[str]]:
    result = platform.tick("publish_collections")
    requests = result.run_requests or [] if isinstance(result, dg.SensorResult) else []
    return [[key.path[-1] for key in request.asset_selection or []] for request in requests]


def stac_links(platform: Platform) -> set[str]:
    document = json.loads(platform.storage.read(f"derived/{COLLECTION.name}/stac/collection.json"))
    return {link["href"] for link in document["links"]}


def listed(platform: Platform) -> dict[str, object]:
    (entry,) = json.loads(platform.storage.read("derived/collections.json"))["collections"]
    assert isinstance(entry, dict)
    return entry


@per_publisher
def test_published_documents_are_valid_and_show_a_photograph(platform: Platform, publisher: MapPublisher) -> None:
    documents = maps.read_published(platform.storage, publisher, COLLECTION)
    assert tuple(documents) == publisher.document_keys(COLLECTION)
    assert publisher.validate(documents) == []
    run = platform.run([dg.AssetKey(["Travis", "mapfile"])], partition_key=COLLECTION.partition)
    assert run.success
    passed = evaluations(run)
    assert passed[publisher.validity_check.name] and passed[publisher.smoke_check.name]


@per_publisher
def test_truncated_documents_are_invalid(platform: Platform, publisher: MapPublisher) -> None:
    for key, data in maps.read_published(platform.storage, publisher, COLLECTION).items():
        assert publisher.validate({key: data[: len(data) // 2]}), key


@per_publisher
def test_missing_document_fails_the_check(platform: Platform, publisher: MapPublisher) -> None:
    """A map without its TileJSON passed: only the documents that were there were validated."""
    keys = publisher.document_keys(COLLECTION)
    for key in keys[1:]:
        data = platform.storage.read(key)
        platform.storage.delete(key)
        result = check_published_documents(platform.archive, COLLECTION, publisher)
        platform.storage.put(key, data)
        assert not result.passed
        assert f"{key} is missing." in str(result.metadata) + str(result.description)
    assert check_published_documents(platform.archive, COLLECTION, publisher).passed


@per_publisher
def test_smoke_test_reports_a_lost_photograph(platform: Platform, publisher: MapPublisher) -> None:
    run_point = (WEST + 100.0, NORTH - 150.0)
    assert not publisher.smoke_test(platform.archive, COLLECTION, run_point).error
    nowhere = (WEST - 50_000.0, NORTH)
    result = publisher.smoke_test(platform.archive, COLLECTION, nowhere)
    assert result.renderer and result.error


@per_publisher
def test_links_are_in_the_lists_of_collections(platform: Platform, publisher: MapPublisher) -> None:
    links = publisher.links(COLLECTION, platform.settings)
    assert links.listed and links.listed.items() <= listed(platform).items()
    assert links.stac and {link["href"] for link in links.stac} <= stac_links(platform)


def test_status_has_the_map_of_the_first_publisher(platform: Platform) -> None:
    (status,) = collect(platform.settings).collections
    assert status.map_url == PUBLISHERS[0].links(COLLECTION, platform.settings).map_url


@per_publisher
def test_reconcile_restores_a_lost_document(platform: Platform, publisher: MapPublisher) -> None:
    for key in publisher.document_keys(COLLECTION):
        platform.storage.delete(key)
        reconciler = Reconciler(platform.archive, platform.instance, True, False, timedelta(0))
        assert [action.target for report in reconciler.run() for action in report.actions] == [key]
        platform.rebuild()
        assert platform.storage.head(key)


def test_findings_of_one_publisher_block_all(platform: Platform) -> None:
    """The last good documents of all publishers stay, so that they show the same frames."""
    before = {key: platform.storage.read(key) for each in PUBLISHERS for key in each.document_keys(COLLECTION)}
    for key in before:
        platform.storage.put(key, b"old")
    careless = platform.with_settings(postgres_service="ls4 password=hunter2")
    run = careless.run([dg.AssetKey(["Travis", "mapfile"])], partition_key=COLLECTION.partition)
    assert not run.success and evaluations(run) == {"mapfile_valid": False}
    assert {platform.storage.read(key) for key in before} == {b"old"}
    for key, data in before.items():
        platform.storage.put(key, data)


def test_unchanged_documents_are_not_written_again(platform: Platform) -> None:
    """Each materialization changed the ETag of the TileJSON, which downstream caches depend on."""

    def versions() -> list[str]:
        stored = [platform.storage.head(key) for each in PUBLISHERS for key in each.document_keys(COLLECTION)]
        return [document.version for document in stored if document]

    before = versions()
    assert platform.run([dg.AssetKey(["Travis", "mapfile"])], partition_key=COLLECTION.partition).success
    assert versions() == before


def test_mosaicjson_lists_the_newest_frame_first(platform: Platform) -> None:
    document = json.loads(platform.storage.read(MOSAIC))
    newest_first = [f"{FOLDER}/cog/{key.rpartition('/')[2]}" for key in reversed(KEYS)]
    assert document["asset_prefix"] == f"{platform.settings.storage}/"
    assert newest_first in document["tiles"].values()
    assert {asset for assets in document["tiles"].values() for asset in assets} == set(newest_first)
    public = platform.with_settings(mosaicjson_addresses="public")
    assert public.rebuild(), "the addresses changed"
    assert json.loads(platform.storage.read(MOSAIC))["asset_prefix"] == "http://maps.test/archive/"
    assert platform.rebuild(), "the addresses changed back"


def test_added_publisher_publishes_existing_collections_and_a_removed_one_withdraws_its_documents(
    cluster: Cluster, tmp_path: Path
) -> None:
    with running_platform(cluster, tmp_path) as one:
        drop(one, tmp_path)
        assert one.storage.head(MOSAIC) is None and "mosaicjson" not in listed(one)
        index_revision = one.rows("SELECT index_revision FROM ls4.collection")
        both = one.with_settings(**BOTH)
        assert requested_assets(both) == [["mapfile", "exports"]]
        one.skip_waits()
        both.rebuild()
        url = f"http://maps.test/archive/{MOSAIC}"
        assert both.storage.head(MOSAIC) and listed(both)["mosaicjson"] == url and url in stac_links(both)
        assert one.rows("SELECT index_revision FROM ls4.collection") == index_revision, "cached tiles stay valid"
        assert both.rebuild() == []
        one.rebuild()
        assert one.storage.head(MOSAIC) is None and "mosaicjson" not in listed(one) and url not in stac_links(one)
        assert one.storage.head(COLLECTION.map_key) and one.rebuild() == []


def test_withdrawal_deletes_the_documents_of_inactive_publishers_too(cluster: Cluster, tmp_path: Path) -> None:
    with running_platform(cluster, tmp_path, **BOTH | {"map_publishers": ",".join(maps.MAP_PUBLISHERS)}) as every:
        drop(every, tmp_path)
        keys = [key for each in PUBLISHERS for key in each.document_keys(COLLECTION)]
        assert all(every.storage.head(key) for key in keys)
        for key in KEYS:
            every.storage.delete(key)
        one = every.with_settings(map_publishers="mapserver", deletion_guard_share="1")
        one.settle()
        one.rebuild()
        assert [key for key in keys if every.storage.head(key)] == []
