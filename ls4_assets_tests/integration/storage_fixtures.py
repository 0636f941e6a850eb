"""An empty archive of each kind (folder; moto and SeaweedFS for S3; Azurite), for the tests of the storage port."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ls4_assets.domain.storages import AZURE, FOLDER, S3
from ls4_assets_tests.azure_server import AzureServer
from ls4_assets_tests.s3_servers import REGION, SERVERS, S3Server
from resources.azure_storage import AzureStorage, account_config
from resources.directory_storage import DirectoryStorage
from resources.s3_storage import S3Storage
from resources.storage import Storage

KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
MEGABYTE = 1 << 20

# The archives that the port is tested with, by the kind of storage.
ARCHIVES = {FOLDER: ("directory",), S3: tuple(SERVERS), AZURE: ("azurite",)}

folder_only = pytest.mark.parametrize("storage", ARCHIVES[FOLDER], indirect=True)
s3_only = pytest.mark.parametrize("storage", ARCHIVES[S3], indirect=True)
azure_only = pytest.mark.parametrize("storage", ARCHIVES[AZURE], indirect=True)


@pytest.fixture(name="storage", params=[name for names in ARCHIVES.values() for name in names])
def storage_fixture(
    request: pytest.FixtureRequest,
    s3_server: Callable[[str], S3Server],
    azure_server: Callable[[], AzureServer],
    tmp_path: Path,
) -> Storage:
    """An empty archive."""
    if request.param in SERVERS:
        return s3_server(request.param).new_bucket()
    if request.param == "azurite":
        return azure_server().new_container()
    (tmp_path / "archive").mkdir()
    return DirectoryStorage(tmp_path / "archive")


def put_raw(storage: Storage, key: str, data: bytes = b"x") -> None:
    """Write an object without the port, as another program would."""
    if isinstance(storage, S3Storage):
        storage.client.put_object(Bucket=storage.bucket, Key=key, Body=data)
    elif isinstance(storage, AzureStorage):
        running_azurite().request("PUT", f"{storage.container}/{key}", headers={"x-ms-blob-type": "BlockBlob"}, body=data)
    elif isinstance(storage, DirectoryStorage) and key.endswith("/"):
        (storage.root / key).mkdir(parents=True, exist_ok=True)
    elif isinstance(storage, DirectoryStorage):
        (storage.root / key).parent.mkdir(parents=True, exist_ok=True)
        (storage.root / key).write_bytes(data)


def settings_of(storage: Storage) -> dict[str, str]:
    """The settings that open the same archive."""
    if isinstance(storage, S3Storage):
        address, endpoint_url = f"s3://{storage.bucket}", str(storage.client.meta.endpoint_url)
        return {"storage": address, "s3_endpoint_url": endpoint_url, "s3_region": REGION}
    return {"storage": f"az://{storage.container}" if isinstance(storage, AzureStorage) else storage.gdal_path("")}


def missing_archive(storage: Storage) -> Storage:
    """An archive of the same kind that does not exist."""
    if isinstance(storage, S3Storage):
        return S3Storage("ls4-missing", storage.client.meta.endpoint_url, REGION)
    return AzureStorage("ls4-missing") if isinstance(storage, AzureStorage) else DirectoryStorage(Path("/never/mounted"))


def running_azurite() -> AzureServer:
    """The server that the environment names."""
    return AzureServer(account_config(os.environ)["endpoint"])


def level_keys(storage: Storage, folder: str, after: str = "") -> list[str]:
    """Keys of the objects and subfolders of one level."""
    return [item if isinstance(item, str) else item.key for item in storage.list_level(folder, after)]


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [stored.key for stored in storage.list(prefix)]
