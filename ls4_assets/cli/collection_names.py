"""Completion of collections in the shell: by name, like Adams_USDA_1958_frames, or by path, like bw/Adams/USDA_1958/frames.

Each press of a key starts a process, so nothing here imports Dagster. After a failure nothing completes: a message would garble
the line.
"""

from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

from ls4_assets.cli.configuration import load_command_settings

_CONNECT_SECONDS = 2
_NAMES = "SELECT name FROM ls4.collection ORDER BY name"
_PATHS = "SELECT f || '/' || shard || '/' || partition FROM ls4.collection, unnest(film_types) f ORDER BY 1"


class CollectionNameType(click.ParamType[str]):
    """A collection's name, completed by its beginning, in any case."""

    # What help and reference show.
    name = "text"
    query = _NAMES

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The collections that begin like this."""
        try:
            values = _list(self.query)
        except Exception:  # noqa: BLE001  # whatever is missing, there is nothing to complete
            return []
        return [CompletionItem(value) for value in values if value.lower().startswith(incomplete.lower())]


class CollectionPathType(CollectionNameType):
    """A collection's path."""

    query = _PATHS


COLLECTION_NAME, COLLECTION_PATH = CollectionNameType(), CollectionPathType()


def _list(query: str) -> Sequence[str]:
    from sqlalchemy import text

    from resources.open import open_database_once

    engine = open_database_once(load_command_settings().database_url.get_secret_value(), _CONNECT_SECONDS)
    with engine.connect() as connection:
        return list(connection.scalars(text(query)))
