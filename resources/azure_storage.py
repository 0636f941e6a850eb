"""The bucket as a container of Azure Blob Storage, with obstore (the optional extra `azure`).

obstore cannot start a listing at a key, and it rejects names with an empty segment ("bw//x.tif"). So a level is read whole:
one request for each 5,000 of its objects, and all of them in memory at once, as with a folder. `list` walks level by level, which
costs one request more for each subfolder and never lists folder markers.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore import exceptions
from obstore.store import AzureStore

from ls4_assets.domain.storages import AZURE, Capabilities
from ls4_assets.errors import ConfigurationError, NotFoundError
from resources.storage import StorageErrors, StoredObject, content_type, folder_end, is_listed, walk

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta
    from obstore.store import AzureConfig

# A lifecycle rule that expires deflate tifs and overviews filters on this blob index tag: their keys have no common prefix.
INTERMEDIATE_TAGS = {"ls4": "intermediate"}
# Each worker process transfers one frame: four parallel parts of this size saturate the network. A request must end within the
# timeout below, body included, so a file is never transferred in one.
_PART_BYTES = 16 << 20
_PARALLEL_PARTS = 4
_PART_TIMEOUT = timedelta(seconds=60)
# An outage raises within a minute, before the tick of the sensor times out.
_RETRIES = 3
_RETRY_TIMEOUT = timedelta(seconds=20)
# A file that is replaced while it is downloaded is read again from its start.
_MAX_DOWNLOADS = 3
_EMPTY_SEGMENT = "{prefix} holds a blob whose name has an empty or relative segment, such as bw//x.tif; rename or delete it."


class AzureStorage:
    """Objects of one container. Credentials and server come from the environment that GDAL reads too (AZURE_STORAGE_*)."""

    def __init__(self, container: str, bucket: str = "ls4", *, read_timeout: float = 10) -> None:
        """`bucket`: named in the legacy column; `read_timeout`: in seconds, of a request for a listing or a small object."""
        self.container = container
        self._bucket = bucket
        self._read_timeout = timedelta(seconds=read_timeout)

    @property
    def capabilities(self) -> Capabilities:
        return AZURE.capabilities

    @property
    def errors(self) -> StorageErrors:
        rejected = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, exceptions.InvalidPathError)
        return StorageErrors(outage=(exceptions.BaseError,), rejected=rejected)

    @property
    def bucket(self) -> str:
        return self._bucket

    def list_level(self, folder: str, after: str = "") -> Iterator[StoredObject | str]:
        with self._explained(folder):
            level = obstore.list_with_delimiter(self._store, folder.rstrip("/") or None)
        items: list[StoredObject | str] = [_stored(each) for each in level["objects"]]
        items += [f"{prefix}/" for prefix in level["common_prefixes"]]
        for item in sorted(items, key=lambda each: each if isinstance(each, str) else each.key):
            if isinstance(item, StoredObject):
                if item.key > after and is_listed(item.key):
                    yield item
            elif folder_end(item) > after and is_listed(item.rstrip("/")):
                yield item

    def list(self, prefix: str) -> Iterator[StoredObject]:
        return walk(self, prefix)

    def head(self, key: str) -> StoredObject | None:
        try:
            return _stored(obstore.head(self._store, key))
        except FileNotFoundError:
            return None

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        try:
            if length is not None:
                return bytes(obstore.get_range(self._store, key, start=start, length=length))
            return bytes(obstore.get(self._store, key, options={"range": {"offset": start}} if start else {}).bytes())
        except FileNotFoundError:
            raise _missing(key) from None
        except exceptions.BaseError:
            # A range behind the end is an error of no class of its own; only then is the size worth a request.
            stored = self.head(key)
            if stored is None or start < stored.size:
                raise
            return b""

    def download(self, key: str, path: Path) -> None:
        for attempt in range(1, _MAX_DOWNLOADS + 1):
            try:
                self._download_parts(key, path)
            except FileNotFoundError:
                path.unlink(missing_ok=True)
                raise _missing(key) from None
            except exceptions.PreconditionError:
                if attempt == _MAX_DOWNLOADS:
                    raise
            else:
                return

    def upload(self, path: Path, key: str, *, intermediate: bool = False, may_link: bool = False) -> StoredObject:
        obstore.put(
            self._transfers,
            key,
            path,
            attributes={"Content-Type": content_type(key)},
            tags=INTERMEDIATE_TAGS if intermediate else None,
            chunk_size=_PART_BYTES,
            max_concurrency=_PARALLEL_PARTS,
        )
        return self._written(key)

    def put(self, key: str, data: bytes) -> StoredObject:
        obstore.put(self._store, key, data, attributes={"Content-Type": content_type(key)}, use_multipart=False)
        return self._written(key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        attributes = {"Content-Type": content_type(key)}
        try:
            obstore.put(self._store, key, data, attributes=attributes, mode="create", use_multipart=False)
        except exceptions.AlreadyExistsError:
            return False
        return True

    def copy(self, key: str, to: str) -> StoredObject:
        # Through a file: the service copies asynchronously, and obstore does not report when such a copy is complete.
        with tempfile.TemporaryDirectory(prefix="ls4-copy-") as folder:
            path = Path(folder) / "copy"
            self.download(key, path)
            return self.upload(path, to)

    def delete(self, key: str) -> None:
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return

    def gdal_path(self, key: str) -> str:
        return f"/vsiaz/{self.container}/{key}"

    def gdal_options(self) -> dict[str, str]:
        # GDAL reads the same environment as `account_config`.
        return {}

    @cached_property
    def _store(self) -> AzureStore:
        return self._open(self._read_timeout)

    @cached_property
    def _transfers(self) -> AzureStore:
        """For parts of files, which take longer than listings."""
        return self._open(_PART_TIMEOUT)

    def _open(self, timeout: timedelta) -> AzureStore:
        config = account_config(os.environ)
        is_plain = config.get("endpoint", "").startswith("http://")
        return AzureStore(
            self.container,
            config=config,
            client_options={"connect_timeout": timedelta(seconds=4), "timeout": timeout, "allow_http": is_plain},
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_TIMEOUT},
        )

    def _download_parts(self, key: str, path: Path) -> None:
        """Download all parts of one version. Raises PreconditionError when the object is replaced meanwhile."""
        meta = obstore.head(self._store, key)
        size, version = meta["size"], meta["e_tag"]

        def fetch(start: int) -> bytes:
            part: GetOptions = {"range": (start, min(start + _PART_BYTES, size)), "if_match": version}
            return bytes(obstore.get(self._transfers, key, options=part).bytes())

        with path.open("wb") as target, ThreadPoolExecutor(_PARALLEL_PARTS) as pool:
            starts = range(0, size, _PART_BYTES)
            for first in range(0, len(starts), _PARALLEL_PARTS):
                for data in pool.map(fetch, starts[first : first + _PARALLEL_PARTS]):
                    target.write(data)

    @contextmanager
    def _explained(self, prefix: str) -> Iterator[None]:
        """Raise ConfigurationError for a missing container and for names that obstore cannot list."""
        try:
            yield
        except exceptions.InvalidPathError as error:
            raise ConfigurationError(_EMPTY_SEGMENT.format(prefix=prefix or "The container")) from error
        except exceptions.BaseError as error:
            if "ContainerNotFound" not in str(error):
                raise
            raise ConfigurationError(
                f"The container {self.container} does not exist; create it, or correct LS4_STORAGE."
            ) from error

    def _written(self, key: str) -> StoredObject:
        stored = self.head(key)
        if stored is None:
            raise NotFoundError(f"{key} was deleted while it was written; drop the frame again if it should stay.")
        return stored


def account_config(environment: Mapping[str, str]) -> "AzureConfig":
    """Returns account, server and credentials for obstore from the variables that GDAL reads.

    obstore itself reads all others, such as AZURE_STORAGE_ACCESS_KEY, and uses the machine's identity without any.
    """
    text = environment.get("AZURE_STORAGE_CONNECTION_STRING")
    if not text:
        account = environment.get("AZURE_STORAGE_ACCOUNT")
        if not account:
            raise ConfigurationError(
                "Neither AZURE_STORAGE_CONNECTION_STRING nor AZURE_STORAGE_ACCOUNT is set; set one of them to reach az://."
            )
        return {"account_name": account}
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    account = parts.get("AccountName", "")
    protocol, suffix = parts.get("DefaultEndpointsProtocol", "https"), parts.get("EndpointSuffix", "core.windows.net")
    endpoint = parts.get("BlobEndpoint", f"{protocol}://{account}.blob.{suffix}").rstrip("/")
    config: AzureConfig = {"account_name": account, "endpoint": endpoint}
    if "AccountKey" in parts:
        config["account_key"] = parts["AccountKey"]
    if "SharedAccessSignature" in parts:
        config["sas_key"] = parts["SharedAccessSignature"]
    return config


def _stored(meta: "ObjectMeta") -> StoredObject:
    # Listings give the ETag without quotes, all other requests with them.
    return StoredObject(meta["path"], meta["size"], (meta["e_tag"] or "").strip('"'), meta["last_modified"])


def _missing(key: str) -> NotFoundError:
    return NotFoundError(f"{key} is not in the archive; drop it again if it should be.")
