"""The only Dagster resource: the settings and the clients of bucket, database, event queue and notifier.

Clients are created on first use, never at import. Each worker process creates its own from the same settings (`open.py`).
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
    """`overrides` replace single settings, as in tests with their own folder and database."""

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
        """The queue of bucket events. Only valid when LS4_EVENTS_QUEUE_URL is set."""
        return EventQueue(self.settings.events_queue_url, self.settings.s3_region)

    @property
    def database(self) -> Engine:
        return open_database(self.settings.database_url.get_secret_value())
