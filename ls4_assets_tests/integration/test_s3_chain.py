"""The complete pipeline with a bucket on S3, where it differs from the folder in test_chain.py.

The differences are credentials in the workers, versions that depend on the upload method, and GDAL reads over the network.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import numpy as np
import pytest
import rasterio
from boto3.s3.transfer import TransferConfig
from rasterio.session import AWSSession

from ls4_assets.domain.products import STEPS
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import Pixels, photograph, write_tif
from ls4_assets_tests.s3_servers import ACCESS_KEY, REGION, SECRET_KEY, SERVERS, S3Server, s3_server_fixture  # noqa: F401
from resources.s3_storage import S3Storage
from resources.storage import StoredObject

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
FRAME = frame_of(KEY)
TABLE = FRAME.collection.table
MEGABYTE = 1 << 20


@pytest.fixture(params=list(SERVERS))
def platform(
    request: pytest.FixtureRequest, s3_server: Callable[[str], S3Server], cluster: Cluster, tmp_path: Path
) -> Iterator[Platform]:
    """A platform whose archive is an empty bucket."""
    server = s3_server(request.param)
    setting = f"s3://{server.new_bucket().bucket}"
    with running_platform(cluster, tmp_path, setting, s3_endpoint_url=server.endpoint_url, s3_region=REGION) as running:
        yield running


def products(platform: Platform) -> list[StoredObject | None]:
    return [platform.storage.head(FRAME.product_key(step)) for step in STEPS]


def upload_in_parts(platform: Platform, path: Path, part: int) -> str:
    """Upload a tif in parts of `part` bytes, as another client would. Returns the ETag."""
    storage = platform.storage
    assert isinstance(storage, S3Storage)
    parts = TransferConfig(multipart_threshold=part, multipart_chunksize=part)
    storage.client.upload_file(str(path), storage.bucket, KEY, Config=parts)
    stored = storage.head(KEY)
    assert stored
    return stored.version


def read_over_network(path: str, endpoint_url: str, level: int | None = None) -> tuple[Pixels, list[int]]:
    """Pixels and overview factors as the map server's GDAL reads them."""
    session = AWSSession(
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name=REGION,
        endpoint_url=urlsplit(endpoint_url).netloc,
    )
    options = {"AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    opened = {} if level is None else {"overview_level": level}
    with rasterio.Env(session, **options), rasterio.open(path, **opened) as cog:
        return cog.read(1), cog.overviews(1)


def test_dropped_frame_is_served_from_the_bucket(platform: Platform, tmp_path: Path) -> None:
    pixels = photograph(1300, 1400)
    platform.drop(KEY, write_tif(tmp_path / "x.tif", pixels))
    assert [run.success for run in platform.settle()] == [True, True]

    storage = platform.storage
    assert isinstance(storage, S3Storage)
    assert platform.state(KEY) == ("done", None)
    assert all(products(platform))
    assert storage.head(FRAME.thumbnail_key)
    assert storage.head(FRAME.collection.tile_index_key("bw", "_idx.zip"))
    for step in STEPS:
        tags = storage.client.get_object_tagging(Bucket=storage.bucket, Key=FRAME.product_key(step))["TagSet"]
        assert bool(tags) == (step != "cog")

    (row,) = platform.rows(f"SELECT location, served_location FROM {TABLE}")
    assert row == dict.fromkeys(("location", "served_location"), f"/vsis3/{storage.bucket}/{FRAME.cog_key}")
    assert TABLE in storage.read(FRAME.collection.map_key).decode()

    endpoint = str(platform.settings.s3_endpoint_url)
    full, levels = read_over_network(str(row["served_location"]), endpoint)
    assert np.array_equal(full, pixels[0])
    assert levels == [2, 4]
    coarse, _ = read_over_network(str(row["served_location"]), endpoint, level=1)
    assert coarse.shape == (325, 350)
    assert abs(float(coarse.mean()) - float(full.mean())) < 1


def test_frame_is_uploaded_again_replaced_and_deleted(platform: Platform, tmp_path: Path) -> None:
    """The ETag of a large file depends on the client's part size, so identical bytes appeared to be a new version."""
    path = write_tif(tmp_path / "x.tif", photograph(2500, 2500))
    assert path.stat().st_size > 5 * MEGABYTE
    first_version = upload_in_parts(platform, path, 64 * MEGABYTE)
    platform.settle()
    built = products(platform)
    assert all(built)

    second_version = upload_in_parts(platform, path, 5 * MEGABYTE)
    assert second_version != first_version
    assert [run.success for run in platform.settle()] == [True]  # the frame's run; nothing to rebuild
    assert products(platform) == built
    assert platform.state(KEY) == ("done", None)
    assert platform.rows("SELECT source_version FROM ls4.frame") == [{"source_version": second_version}]
    event = platform.instance.get_latest_materialization_event(dg.AssetKey(["Travis", "cog"]))
    assert event and event.asset_materialization
    assert event.asset_materialization.metadata["work"].value == "already up to date"

    platform.drop(KEY, write_tif(tmp_path / "y.tif", photograph(300, 320, seed=8)))
    assert [run.success for run in platform.settle()] == [True, True]
    rebuilt = products(platform)
    assert all(new and old and new.version != old.version for new, old in zip(rebuilt, built, strict=True))
    assert platform.rows("SELECT width, height FROM ls4.frame") == [{"width": 320, "height": 300}]

    platform.storage.delete(KEY)
    assert all(run.success for run in platform.settle())
    left = ["derived/catalog.json", "derived/collections.json", "mapfiles/footprint.html"]
    assert [stored.key for stored in platform.storage.list("")] == left
    assert platform.rows(f"SELECT to_regclass('public.{TABLE}') AS it") == [{"it": None}]
    assert platform.ingest() == []  # the next scan deletes the partition in Dagster
    assert platform.instance.get_dynamic_partitions("frames/Travis") == []
