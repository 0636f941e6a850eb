"""The kinds of storage that can hold an archive, and what each of them can do.

A caller asks for the capability that it needs, never for the kind or the class of a storage, so a new kind is one entry here and
one implementation of the port (`resources.storage`). Clients are created in `resources.buckets`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ls4_assets.errors import ConfigurationError


@dataclass(frozen=True)
class Capabilities:
    """What differs between storages. The reference page shows these lines.

    has_local_paths: GDAL's path of an object is a file of this machine, which needs no credentials and whose disk can fill.
    can_be_unmounted: the storage is empty while its disk is not mounted, so an empty listing proves nothing.
    lists_partial_files: a file is listed while it is still being copied; its content is complete once its version stays the same.
    lists_placeholders: an object without bytes may be put first, as by a mount, and wait for its content.
    lists_after_key: a listing can start at any key. Otherwise the storage reads the whole folder for it.
    keeps_versions: a copy of the archive in another place has the same versions, so they identify content.
    sends_events: changes can be received from LS4_EVENTS_QUEUE_URL.
    """

    has_local_paths: bool
    can_be_unmounted: bool
    lists_partial_files: bool
    lists_placeholders: bool
    lists_after_key: bool
    keeps_versions: bool
    sends_events: bool


@dataclass(frozen=True)
class StorageKind:
    """A kind of storage.

    scheme: of the address in LS4_STORAGE. example: an address. gdal_variables: environment variables that give GDAL access to it;
    they are passed on to mapserv, because FastCGI discards the environment.
    """

    name: str
    scheme: str
    example: str
    capabilities: Capabilities
    gdal_variables: tuple[str, ...] = ()


FOLDER = StorageKind(
    name="folder",
    scheme="file",
    example="/srv/archive",
    capabilities=Capabilities(
        has_local_paths=True,
        can_be_unmounted=True,
        lists_partial_files=True,
        lists_placeholders=False,
        lists_after_key=False,
        keeps_versions=False,
        sends_events=False,
    ),
)

S3 = StorageKind(
    name="S3",
    scheme="s3",
    example="s3://bucket",
    capabilities=Capabilities(
        has_local_paths=False,
        can_be_unmounted=False,
        lists_partial_files=False,
        lists_placeholders=True,
        lists_after_key=True,
        keeps_versions=True,
        sends_events=True,
    ),
    gdal_variables=(
        *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING"),
    ),
)

AZURE = StorageKind(
    name="Azure Blob Storage",
    scheme="az",
    example="az://container",
    capabilities=Capabilities(
        has_local_paths=False,
        can_be_unmounted=False,
        lists_partial_files=False,
        lists_placeholders=True,
        lists_after_key=False,
        keeps_versions=False,
        sends_events=False,
    ),
    gdal_variables=(
        *("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN"),
        *("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"),
    ),
)

KINDS: Mapping[str, StorageKind] = {kind.scheme: kind for kind in (FOLDER, S3, AZURE)}
"""All kinds by scheme."""


def parse_address(address: str) -> tuple[StorageKind, str]:
    """Returns the kind of an address such as az://container, and the folder or the name of the bucket in it.

    Raises ConfigurationError for an unknown scheme, and for anything but a name behind it.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        return FOLDER, address
    kind = KINDS.get(scheme)
    name = rest if kind is FOLDER else rest.strip("/")
    if kind is None or not name or (kind is not FOLDER and "/" in name):
        examples = ", ".join(each.example for each in KINDS.values())
        raise ConfigurationError(f"{address} is not the address of an archive, such as {examples}; correct LS4_STORAGE.")
    return kind, name
