"""Creation of the clients that the settings name: bucket, database and notifier. Only here."""

from functools import lru_cache

from sqlalchemy import Engine, NullPool, create_engine

from ls4_assets.settings import Settings
from resources.buckets import BucketOptions, open_bucket
from resources.notifier import FileNotifier, LogNotifier, Notifier, Notifiers, SnsNotifier
from resources.storage import Storage


def open_storage(settings: Settings) -> Storage:
    """Returns the storage of `settings.storage`. Raises ConfigurationError when the setting is invalid."""
    return open_bucket(settings.storage, bucket_options(settings))


def bucket_options(settings: Settings) -> BucketOptions:
    """Returns the options of the settings for any bucket."""
    return BucketOptions(
        legacy_bucket=settings.legacy_bucket,
        s3_endpoint_url=settings.s3_endpoint_url,
        s3_region=settings.s3_region,
        mapfile_owner=(settings.mapfile_uid, settings.mapfile_gid),
    )


def open_notifier(settings: Settings) -> Notifier:
    """Returns the notifiers of the settings, those that may fail first."""
    notifiers: list[Notifier] = []
    if settings.notify_topic:
        notifiers.append(SnsNotifier(settings.notify_topic, settings.notify_endpoint_url))
    if settings.notify_file:
        notifiers.append(FileNotifier(settings.notify_file))
    return Notifiers(*notifiers, LogNotifier())


@lru_cache(maxsize=4)
def open_database(url: str, *, keep_open: bool = False) -> Engine:
    """Returns the engine of the index database, one per process. Without a pool: runs are short and many,
    and connections are scarce on RDS.

    `keep_open` keeps one connection open, for a worker with many queries: a new one takes 20 ms to its first geometry.
    """
    if keep_open:
        return create_engine(url, pool_size=1, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    return create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 10})
