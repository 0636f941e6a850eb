"""The one Dagster resource: the archive, with its configuration, its bucket, its events, its database and its way to tell people.

Clients are made when first asked for, never at import; each worker process makes its own from the same configuration.
"""

from functools import cached_property

import dagster as dg
from pydantic import Field
from sqlalchemy import Engine

from ls4_assets.settings import Settings, load_settings
from resources.notifier import Notifier
from resources.open import open_database, open_notifier, open_storage
from resources.queue import EventQueue
from resources.storage import Storage


class Archive(dg.ConfigurableResource[None]):
    """`overrides` replace single settings: tests point an archive at a folder and a database of their own."""

    overrides: dict[str, str] = Field(default_factory=dict)

    @cached_property
    def settings(self) -> Settings:
        return load_settings(**self.overrides)

    @cached_property
    def storage(self) -> Storage:
        return open_storage(self.settings)

    @cached_property
    def notifier(self) -> Notifier:
        return open_notifier(self.settings)

    @cached_property
    def queue(self) -> EventQueue:
        """The bucket's events, where the settings name a queue."""
        return EventQueue(self.settings.events_queue_url, self.settings.s3_region)

    @property
    def database(self) -> Engine:
        return open_database(self.settings.database_url.get_secret_value())
