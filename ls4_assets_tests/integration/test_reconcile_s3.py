"""Reconciliation of a collection on S3 with more frames than one listing page, which the old maintenance job got wrong."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dagster as dg
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from ls4_assets.assets import event_store
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.reconcile.messages import format_report
from ls4_assets.operations.reconcile.model import ActionKind
from ls4_assets_tests.integration.test_reconcile import COLLECTION, FOLDER, execute, plan_actions, reconcile
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from resources.s3_storage import S3Storage

FRAME_COUNT = 1_050
STEMS = [f"02-08-60_6-{number:06}" for number in range(FRAME_COUNT)]


@pytest.fixture(scope="module")
def crowded(
    s3_server: Callable[[str], S3Server], cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A platform with FRAME_COUNT finished frames, without any pixels: objects, rows and partitions."""
    server = s3_server("moto")
    bucket = server.new_bucket()
    keys = [f"{FOLDER}/{folder}/{stem}.tif" for folder in ("georef", "cog") for stem in STEMS]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=b"cog"), keys))
    cog = bucket.head(keys[-1])
    assert cog
    folder = tmp_path_factory.mktemp("crowded")
    settings = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION}
    with running_platform(cluster, folder, f"s3://{bucket.bucket}", **settings) as running:
        fill(running, cog.version)
        yield running


def fill(platform: Platform, version: str) -> None:
    product = json.dumps({"cog": {"size": 3, "version": version, "made_by": "x"}})
    stems = f"(SELECT '02-08-60_6-' || lpad(n::text, 6, '0') AS stem FROM generate_series(0, {FRAME_COUNT - 1}) n) AS stems"
    execute(platform, f"""
        INSERT INTO ls4.collection (name, shard, partition, table_name, index_revision, files_revision, map_revision)
          VALUES ('{COLLECTION.name}', 'Travis', '{COLLECTION.partition}', '{COLLECTION.table}', 1, 1, 1);
        INSERT INTO ls4.source (key, state, version, size, frame, shard, collection, partition)
          SELECT '{FOLDER}/georef/' || stem || '.tif', 'done', 'v', 1, '{FOLDER}/' || stem, 'Travis', '{COLLECTION.name}',
                 '{COLLECTION.partition}/bw/' || stem FROM {stems};
        INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, products, served_key,
                               public_version, indexed_revision)
          SELECT '{FOLDER}/' || stem, 'Travis', '{COLLECTION.name}', '{COLLECTION.partition}/bw/' || stem,
                 '{FOLDER}/georef/' || stem || '.tif', 'v', '', '{product}', '{FOLDER}/cog/' || stem || '.tif',
                 '{version}', 1 FROM {stems}
    """)  # fmt: skip
    partitions = [f"{COLLECTION.partition}/bw/{stem}" for stem in STEMS]
    platform.instance.add_dynamic_partitions("frames/Travis", partitions)
    made = [dg.AssetMaterialization(["Travis", asset], partition=each) for asset in ("georef", "cog") for each in partitions]
    event_store.store_asset_events(platform.instance, event_store.RUNLESS_ORIGIN, made)


def test_frames_on_later_listing_pages_count_and_an_incomplete_listing_removes_nothing(crowded: Platform) -> None:
    """The old maintenance job read only the first page, and would have dropped later frames from live tables."""
    assert plan_actions(crowded) == []
    storage = crowded.storage
    assert isinstance(storage, S3Storage)

    # botocore sends the response that a handler returns; its stubs declare handlers without a return value.
    def reject(request: object, **_: object) -> Any:
        url = str(getattr(request, "url", ""))
        return AWSResponse(url, 403, HTTPHeaders(), Body()) if "continuation-token" in url.lower() else None

    storage.client.meta.events.register("before-send.s3.ListObjectsV2", reject)
    for options in ({}, {"delete_many": True}):
        (report,) = reconcile(crowded, apply=True, **options)
        assert report.actions == []
        assert str(report.error).startswith("cannot be listed completely")
    storage.client.meta.events.unregister("before-send.s3.ListObjectsV2", reject)
    assert plan_actions(crowded) == []


class Body:
    def stream(self) -> Iterator[bytes]:
        yield b"<Error><Code>AccessDenied</Code></Error>"


@pytest.mark.slow
def test_a_mass_deletion_is_held(crowded: Platform) -> None:
    """A database that had lost rows would have had a third of the collection's objects deleted."""
    execute(crowded, "DELETE FROM ls4.frame WHERE id > 'bw/Travis/USDA_1958/frames/02-08-60_6-0007'")
    execute(crowded, "UPDATE ls4.source SET state = 'deleted' WHERE key > 'bw/Travis/USDA_1958/frames/georef/02-08-60_6-0007'")
    for stem in STEMS[700:]:
        crowded.storage.delete(f"{FOLDER}/georef/{stem}.tif")
    (report,) = reconcile(crowded, apply=True)
    assert {action.kind for action in report.actions} == set()
    assert [action.kind for action in report.held].count(ActionKind.REMOVE) == FRAME_COUNT - 700
    assert crowded.storage.head(f"{FOLDER}/cog/02-08-60_6-{FRAME_COUNT - 1:06}.tif")
    text = "\n".join(format_report(report))
    assert "--apply --delete-many" in text and f"and {FRAME_COUNT - 703:,} more" in text
    reconcile(crowded, apply=True, delete_many=True)
    assert crowded.storage.head(f"{FOLDER}/cog/02-08-60_6-{FRAME_COUNT - 1:06}.tif") is None
    assert crowded.storage.head(f"{FOLDER}/cog/02-08-60_6-000001.tif")
