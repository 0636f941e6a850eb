"""Creation of the client of a storage from its address. The map server uses this too, so nothing here needs the settings.

Each kind of storage (`ls4_assets.domain.storages`) has one opener in `_OPENERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ls4_assets.domain.storages import AZURE, FOLDER, S3, parse_address
from ls4_assets.errors import ConfigurationError
from resources.directory_storage import DirectoryStorage
from resources.storage import Storage


@dataclass(frozen=True)
class BucketOptions:
    """Options of some kinds; each opener takes its own.

    legacy_bucket: the bucket in the legacy column `location` when the storage is not on S3. s3_endpoint_url: an S3 server other
    than AWS. mapfile_owner: uid and gid of mapfiles in an s3fs mount. read_timeout_seconds: of one request.
    """

    legacy_bucket: str = "ls4"
    s3_endpoint_url: str | None = None
    s3_region: str | None = None
    mapfile_owner: tuple[int, int] = (0, 0)
    read_timeout_seconds: float = 10


def open_bucket(address: str, options: BucketOptions) -> Storage:
    """Returns the storage at an address such as /srv/archive or s3://bucket. Raises ConfigurationError when it is invalid."""
    kind, name = parse_address(address)
    return _OPENERS[kind.scheme](name, options)


def _open_folder(folder: str, options: BucketOptions) -> Storage:
    return DirectoryStorage(Path(folder), options.legacy_bucket)


def _open_s3(bucket: str, options: BucketOptions) -> Storage:
    # Processes that open no bucket, or a folder, do without the 7 MB of its modules.
    from resources.s3_storage import S3Storage

    return S3Storage(
        bucket,
        options.s3_endpoint_url,
        options.s3_region,
        mapfile_owner=options.mapfile_owner,
        read_timeout=options.read_timeout_seconds,
    )


def _open_azure(container: str, options: BucketOptions) -> Storage:
    try:
        from resources.azure_storage import AzureStorage
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"az://{container} needs the package {error.name}; install the extra `azure` with `uv sync --extra azure`."
        ) from None
    return AzureStorage(container, options.legacy_bucket, read_timeout=options.read_timeout_seconds)


_OPENERS: Mapping[str, Callable[[str, BucketOptions], Storage]] = {
    FOLDER.scheme: _open_folder,
    S3.scheme: _open_s3,
    AZURE.scheme: _open_azure,
}
