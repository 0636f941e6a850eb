"""The bucket on S3 (AWS or a compatible server), with boto3."""

import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from ls4_assets.domain.storages import S3, Capabilities
from ls4_assets.errors import ConfigurationError, NotFoundError
from resources.storage import StorageErrors, StoredObject, content_type, folder_end, is_listed

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

# The lifecycle rule that expires deflate tifs and overviews filters on this tag, because their keys have no common prefix.
INTERMEDIATE_TAG = "ls4=intermediate"
# Each worker process transfers one frame: four parallel parts saturate the network without the default ten threads.
_TRANSFER = TransferConfig(max_concurrency=4)
# An s3fs mount of this prefix takes owner and mode from object metadata. The mode is a regular file, rw-rw-r--.
_MOUNTED = "mapfiles/"
_S3FS_MODE = "33204"
_UNORDERED = (
    "The bucket lists {key} after {last}, and deletions cannot be detected without key order; "
    "use a bucket that lists in key order, such as an S3 general purpose bucket."
)
_MISSING = ("404", "NoSuchKey", "NotFound")


class S3Storage:
    """Objects of one bucket. Writes set no ACL, because new buckets reject them."""

    def __init__(
        self,
        bucket: str,
        endpoint_url: str | None = None,
        region: str | None = None,
        *,
        mapfile_owner: tuple[int, int] = (0, 0),
        read_timeout: float = 10,
    ) -> None:
        """`mapfile_owner`: uid and gid of mapfiles in an s3fs mount; `read_timeout`: in seconds."""
        self._bucket = bucket
        self._endpoint_url = endpoint_url
        self._region = region
        self._mapfile_owner = mapfile_owner
        self._read_timeout = read_timeout

    @property
    def capabilities(self) -> Capabilities:
        return S3.capabilities

    @property
    def errors(self) -> StorageErrors:
        return StorageErrors(outage=(BotoCoreError, ClientError), rejected=(ClientError,))

    @property
    def bucket(self) -> str:
        return self._bucket

    @cached_property
    def client(self) -> "S3Client":
        # An outage raises within a minute, before the tick of the sensor times out.
        config = Config(retries={"mode": "adaptive", "total_max_attempts": 4}, connect_timeout=4, read_timeout=self._read_timeout)
        return boto3.client("s3", endpoint_url=self._endpoint_url, region_name=self._region, config=config)

    def list_level(self, folder: str, after: str = "") -> Iterator[StoredObject | str]:
        start = ""
        if after.startswith(folder):
            start = after
            head, below, _ = after[len(folder) :].partition("/")
            if below:
                # Servers differ in whether they list the folder of the start key itself, so it is yielded here.
                start = folder_end(f"{folder}{head}/")
                yield f"{folder}{head}/"
        elif after > folder:
            return
        last = ""
        for page in self._pages(Prefix=folder, Delimiter="/", **({"StartAfter": start} if start else {})):
            objects = {entry["Key"]: _stored(entry) for entry in page.get("Contents", [])}
            folders = {entry["Prefix"]: entry["Prefix"] for entry in page.get("CommonPrefixes", [])}
            for key, item in sorted((objects | folders).items()):
                if key < last:
                    raise ConfigurationError(_UNORDERED.format(key=key, last=last))
                last = key
                if key > start and is_listed(key.rstrip("/") if key in folders else key):
                    yield item

    def list(self, prefix: str) -> Iterator[StoredObject]:
        # S3 lists in key order.
        for page in self._pages(Prefix=prefix):
            yield from (_stored(entry) for entry in page.get("Contents", []) if is_listed(entry["Key"]))

    def head(self, key: str) -> StoredObject | None:
        try:
            response = self.client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING:
                return None
            raise
        return StoredObject(key, response["ContentLength"], response["ETag"].strip('"'), response["LastModified"])

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        end = "" if length is None else str(start + length - 1)
        try:
            return self.client.get_object(Bucket=self._bucket, Key=key, Range=f"bytes={start}-{end}")["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] == "InvalidRange":
                return b""
            raise _translate(error, key) from error

    def download(self, key: str, path: Path) -> None:
        try:
            self.client.download_file(self._bucket, key, str(path), Config=_TRANSFER)
        except ClientError as error:
            raise _translate(error, key) from error

    def upload(self, path: Path, key: str, *, intermediate: bool = False, may_link: bool = False) -> StoredObject:
        extra = {"ContentType": content_type(key)} | ({"Tagging": INTERMEDIATE_TAG} if intermediate else {})
        self.client.upload_file(str(path), self._bucket, key, ExtraArgs=extra, Config=_TRANSFER)
        return self._written(key)

    def put(self, key: str, data: bytes) -> StoredObject:
        metadata = self._s3fs_metadata() if key.startswith(_MOUNTED) else {}
        self.client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=content_type(key), Metadata=metadata)
        return self._written(key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        try:
            self.client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=content_type(key), IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] in ("PreconditionFailed", "412"):
                return False
            raise
        return True

    def copy(self, key: str, to: str) -> StoredObject:
        # Set explicitly, because a multipart copy does not inherit it.
        extra = {"ContentType": content_type(to), "MetadataDirective": "REPLACE"}
        try:
            self.client.copy({"Bucket": self._bucket, "Key": key}, self._bucket, to, ExtraArgs=extra, Config=_TRANSFER)
        except ClientError as error:
            raise _translate(error, key) from error
        return self._written(to)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self._bucket, Key=key)

    def gdal_path(self, key: str) -> str:
        return f"/vsis3/{self._bucket}/{key}"

    def gdal_options(self) -> dict[str, str]:
        region = {"AWS_REGION": self._region} if self._region else {}
        if not self._endpoint_url:
            return region
        server = urlsplit(self._endpoint_url)
        https = "YES" if server.scheme == "https" else "NO"
        return {**region, "AWS_S3_ENDPOINT": server.netloc, "AWS_HTTPS": https, "AWS_VIRTUAL_HOSTING": "FALSE"}

    def _s3fs_metadata(self) -> dict[str, str]:
        uid, gid = self._mapfile_owner
        return {"mode": _S3FS_MODE, "uid": str(uid), "gid": str(gid), "mtime": str(int(time.time()))}

    def _pages(self, **parameters: Any) -> Iterator["ListObjectsV2OutputTypeDef"]:
        try:
            yield from self.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **parameters)
        except self.client.exceptions.NoSuchBucket as error:
            raise ConfigurationError(f"The bucket {self._bucket} does not exist; create it, or correct LS4_STORAGE.") from error

    def _written(self, key: str) -> StoredObject:
        stored = self.head(key)
        if stored is None:
            raise NotFoundError(f"{key} was deleted while it was written; drop the frame again if it should stay.")
        return stored


def _stored(entry: Any) -> StoredObject:
    return StoredObject(entry["Key"], entry["Size"], entry["ETag"].strip('"'), entry["LastModified"])


def _translate(error: ClientError, key: str) -> Exception:
    if error.response["Error"]["Code"] in _MISSING:
        return NotFoundError(f"{key} is not in the archive; drop it again if it should be.")
    return error
