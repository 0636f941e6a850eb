"""A collection of more frames than a page of a listing holds, on S3: what the old maintenance job got wrong."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.awsrequest import AWSResponse

from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.reconcile.messages import lines
from ls4_assets.operations.reconcile.model import Kind
from ls4_assets_tests.integration.test_reconcile import FOLDER, OF, execute, found, reconciled
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from resources.s3_storage import S3Storage

MANY = 1_050
STEMS = [f"02-08-60_6-{number:06}" for number in range(MANY)]


@pytest.fixture(scope="module")
def crowded(
    s3_server: Callable[[str], S3Server], cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """So many frames that are made, without any pixel: objects, rows and partitions."""
    server = s3_server("moto")
    bucket = server.new_bucket()
    keys = [f"{FOLDER}/{folder}/{stem}.tif" for folder in ("georef", "cog") for stem in STEMS]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=b"cog"), keys))
    found = bucket.head(keys[-1])
    assert found
    folder = tmp_path_factory.mktemp("crowded")
    settings = {"s3_endpoint_url": server.endpoint_url, "s3_region": REGION}
    with running_platform(cluster, folder, f"s3://{bucket.bucket}", **settings) as running:
        fill(running, found.version)
        yield running


def fill(platform: Platform, version: str) -> None:
    product = json.dumps({"cog": {"size": 3, "version": version, "made_by": "x"}})
    stems = f"(SELECT '02-08-60_6-' || lpad(n::text, 6, '0') AS stem FROM generate_series(0, {MANY - 1}) n) AS stems"
    execute(platform, f"""
        INSERT INTO ls4.collection (name, shard, partition, table_name, index_revision, files_revision, map_revision)
          VALUES ('{OF.name}', 'Travis', '{OF.partition}', '{OF.table}', 1, 1, 1);
        INSERT INTO ls4.source (key, state, version, size, frame, shard, collection, partition)
          SELECT '{FOLDER}/georef/' || stem || '.tif', 'done', 'v', 1, '{FOLDER}/' || stem, 'Travis', '{OF.name}',
                 '{OF.partition}/bw/' || stem FROM {stems};
        INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, products, served_key,
                               public_version, indexed_revision)
          SELECT '{FOLDER}/' || stem, 'Travis', '{OF.name}', '{OF.partition}/bw/' || stem, '{FOLDER}/georef/' || stem || '.tif',
                 'v', '', '{product}', '{FOLDER}/cog/' || stem || '.tif', '{version}', 1 FROM {stems}
    """)  # fmt: skip
    platform.instance.add_dynamic_partitions("frames/Travis", [f"{OF.partition}/bw/{stem}" for stem in STEMS])


def test_more_frames_than_a_page_of_a_listing_are_in_step_and_a_broken_listing_removes_nothing(crowded: Platform) -> None:
    """The old maintenance job read the first page only, and would have dropped what stands behind it from live tables."""
    assert found(crowded) == []
    storage = crowded.storage
    assert isinstance(storage, S3Storage)

    def reject(request: object, **_: object) -> AWSResponse | None:
        url = str(getattr(request, "url", ""))
        return AWSResponse(url, 403, {}, Body()) if "continuation-token" in url.lower() else None

    storage.client.meta.events.register("before-send.s3.ListObjectsV2", reject)
    for options in ({}, {"delete_many": True}):
        (report,) = reconciled(crowded, apply=True, **options)
        assert report.actions == []
        assert str(report.rejected).startswith("cannot be listed whole")
    storage.client.meta.events.unregister("before-send.s3.ListObjectsV2", reject)
    assert found(crowded) == []


class Body:
    def stream(self) -> Iterator[bytes]:
        yield b"<Error><Code>AccessDenied</Code></Error>"


@pytest.mark.slow
def test_much_that_would_go_at_once_is_held(crowded: Platform) -> None:
    """A database that lost rows would else have had the objects of a third of the collection deleted."""
    execute(crowded, "DELETE FROM ls4.frame WHERE id > 'bw/Travis/USDA_1958/frames/02-08-60_6-0007'")
    execute(crowded, "UPDATE ls4.source SET state = 'deleted' WHERE key > 'bw/Travis/USDA_1958/frames/georef/02-08-60_6-0007'")
    for stem in STEMS[700:]:
        crowded.storage.delete(f"{FOLDER}/georef/{stem}.tif")
    (report,) = reconciled(crowded, apply=True)
    assert {one.kind for one in report.actions} == set()
    assert [one.kind for one in report.held].count(Kind.REMOVE) == MANY - 700
    assert crowded.storage.head(f"{FOLDER}/cog/02-08-60_6-{MANY - 1:06}.tif")
    said = "\n".join(lines(report))
    assert "--apply --delete-many" in said and f"and {MANY - 703:,} more" in said
    reconciled(crowded, apply=True, delete_many=True)
    assert crowded.storage.head(f"{FOLDER}/cog/02-08-60_6-{MANY - 1:06}.tif") is None
    assert crowded.storage.head(f"{FOLDER}/cog/02-08-60_6-000001.tif")
