"""An empty archive of each kind (folder, moto, SeaweedFS), for the tests of the storage port."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ls4_assets_tests.s3_servers import SERVERS, S3Server
from resources.directory_storage import DirectoryStorage
from resources.s3_storage import S3Storage
from resources.storage import Storage

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
MEGABYTE = 1 << 20

folder_only = pytest.mark.parametrize("storage", ["directory"], indirect=True)
s3_only = pytest.mark.parametrize("storage", list(SERVERS), indirect=True)


@pytest.fixture(name="storage", params=["directory", *SERVERS])
def storage_fixture(request: pytest.FixtureRequest, s3_server: Callable[[str], S3Server], tmp_path: Path) -> Storage:
    """An empty archive."""
    if request.param != "directory":
        return s3_server(request.param).new_bucket()
    (tmp_path / "archive").mkdir()
    return DirectoryStorage(tmp_path / "archive")


def put_raw(storage: Storage, key: str, data: bytes = b"x") -> None:
    """Write an object without the port, as another program would."""
    if isinstance(storage, S3Storage):
        storage.client.put_object(Bucket=storage.bucket, Key=key, Body=data)
    elif isinstance(storage, DirectoryStorage) and key.endswith("/"):
        (storage.root / key).mkdir(parents=True, exist_ok=True)
    elif isinstance(storage, DirectoryStorage):
        (storage.root / key).parent.mkdir(parents=True, exist_ok=True)
        (storage.root / key).write_bytes(data)


def level_keys(storage: Storage, folder: str, after: str = "") -> list[str]:
    """Keys of the objects and subfolders of one level."""
    return [item if isinstance(item, str) else item.key for item in storage.list_level(folder, after)]


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [stored.key for stored in storage.list(prefix)]
