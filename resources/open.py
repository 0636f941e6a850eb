"""Creation of the clients that the settings name: bucket, database and notifier. Only here."""

import os
from functools import lru_cache

from sqlalchemy import Engine, NullPool, create_engine

from ls4_assets.settings import ArchiveSettings, NotificationSettings
from resources.buckets import BucketOptions, open_bucket
from resources.notifier import FileNotifier, LogNotifier, Notifier, Notifiers, SnsNotifier
from resources.storage import Storage


def open_storage(settings: ArchiveSettings) -> Storage:
    """Returns the storage of `settings.storage`. Raises ConfigurationError when the setting is invalid."""
    return open_bucket(settings.storage, bucket_options(settings))


def bucket_options(settings: ArchiveSettings) -> BucketOptions:
    """Returns the options of the settings for any bucket."""
    return BucketOptions(
        legacy_bucket=settings.legacy_bucket,
        s3_endpoint_url=settings.s3_endpoint_url,
        s3_region=settings.s3_region,
        mapfile_owner=(settings.mapfile_uid, settings.mapfile_gid),
    )


def open_notifier(settings: NotificationSettings) -> Notifier:
    """Returns the notifiers of the settings, those that may fail first."""
    notifiers: list[Notifier] = []
    if settings.notify_topic:
        notifiers.append(SnsNotifier(settings.notify_topic, settings.notify_endpoint_url))
    if settings.notify_file:
        notifiers.append(FileNotifier(settings.notify_file))
    return Notifiers(*notifiers, LogNotifier())


def open_database(url: str) -> Engine:
    """Returns the engine of the index database, one per process. It keeps one connection open: a new one takes 5 ms of CPU for a
    sensor that ticks every few seconds, and 20 ms to its first geometry for a worker."""
    return _engine(url, os.getpid())


def open_database_once(url: str, connect_seconds: int = 5) -> Engine:
    """Returns an engine that opens a connection for each use, so that a server that hangs is noticed within seconds."""
    return create_engine(url, connect_args={"connect_timeout": connect_seconds}, poolclass=NullPool)


@lru_cache(maxsize=4)
def _engine(url: str, process_id: int) -> Engine:
    """By process, because a forked process must not use the connections of its parent."""
    # More connections are opened when threads need them, and the server may have restarted.
    options = {"pool_size": 1, "max_overflow": -1, "pool_pre_ping": True}
    return create_engine(url, connect_args={"connect_timeout": 10}, **options)
