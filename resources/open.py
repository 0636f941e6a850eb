"""Creation of the clients that the settings name: bucket, database and notifier. Only here."""

from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Engine, NullPool, create_engine

from ls4_assets.errors import ConfigurationError
from ls4_assets.settings import Settings
from resources.directory_storage import DirectoryStorage
from resources.notifier import FileNotifier, LogNotifier, Notifier, Notifiers, SnsNotifier
from resources.s3_storage import S3Storage
from resources.storage import Storage


def open_storage(settings: Settings) -> Storage:
    """Returns the storage of `settings.storage`. Raises ConfigurationError when the setting is invalid."""
    scheme, separator, rest = settings.storage.partition("://")
    if not separator:
        return DirectoryStorage(Path(settings.storage), settings.legacy_bucket)
    if scheme == "file":
        return DirectoryStorage(Path(rest), settings.legacy_bucket)
    if scheme == "s3" and rest.strip("/") and "/" not in rest.strip("/"):
        owner = (settings.mapfile_uid, settings.mapfile_gid)
        return S3Storage(rest.strip("/"), settings.s3_endpoint_url, settings.s3_region, mapfile_owner=owner)
    raise ConfigurationError(f"LS4_STORAGE={settings.storage} is neither a folder nor s3://<bucket>; correct the setting.")


def open_notifier(settings: Settings) -> Notifier:
    """Returns the notifiers of the settings, those that may fail first."""
    notifiers: list[Notifier] = []
    if settings.notify_topic:
        notifiers.append(SnsNotifier(settings.notify_topic, settings.notify_endpoint_url))
    if settings.notify_file:
        notifiers.append(FileNotifier(settings.notify_file))
    return Notifiers(*notifiers, LogNotifier())


def gdal_s3_options(settings: Settings) -> dict[str, str]:
    """Returns GDAL options for the S3 server of the settings; none for AWS."""
    if not settings.s3_endpoint_url:
        return {}
    server = urlsplit(settings.s3_endpoint_url)
    https = "YES" if server.scheme == "https" else "NO"
    return {"AWS_S3_ENDPOINT": server.netloc, "AWS_HTTPS": https, "AWS_VIRTUAL_HOSTING": "FALSE"}


@lru_cache(maxsize=4)
def open_database(url: str, *, keep_open: bool = False) -> Engine:
    """Returns the engine of the index database, one per process. Without a pool: runs are short and many,
    and connections are scarce on RDS.

    `keep_open` keeps one connection open, for a worker with many queries: a new one takes 20 ms to its first geometry.
    """
    if keep_open:
        return create_engine(url, pool_size=1, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    return create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 10})
