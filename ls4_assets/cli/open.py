"""`ls4 open`: the pages of the platform in the browser."""

import os
import sys
import webbrowser
from urllib.parse import quote

import click

from ls4_assets.cli.collection_names import COLLECTION_NAME
from ls4_assets.cli.configuration import load_archive_settings, load_command_settings
from ls4_assets.errors import ConfigurationError


@click.command("open")
@click.argument("name", required=False, type=COLLECTION_NAME)
@click.option("--ui", is_flag=True, help="Open the Dagster UI instead of the map.")
def open_(name: str | None, ui: bool) -> None:
    """Open the map of a collection, or the map page, in the browser.

    NAME is a collection like Adams_USDA_1958_frames, or its beginning. The address is printed too, for machines without
    a browser.
    """
    address = _collection_address(name, ui) if name else _address(ui)
    click.echo(address)
    if _has_browser():
        webbrowser.open(address)


def _address(ui: bool) -> str:
    settings = load_command_settings()
    if ui and not settings.dagster_url:
        raise ConfigurationError("The address of the Dagster UI is not known; set LS4_DAGSTER_URL.")
    return settings.dagster_url if ui else f"{settings.map_url}/"


def _collection_address(name: str, ui: bool) -> str:
    from ls4_assets.db.lookup import find_collection
    from resources.open import open_database

    settings, home = load_archive_settings(), _address(ui)
    with open_database(settings.database_url.get_secret_value()).connect() as connection:
        collection = find_collection(connection, name)
    if ui:
        return (
            f"{home}/assets/{quote(collection.shard)}/tile_index?view=partitions&partition={quote(collection.partition, safe='')}"
        )
    return f"{home}#{collection.table}"


def _has_browser() -> bool:
    """Whether a window can open. A browser in the terminal would take it over."""
    return sys.platform == "darwin" or any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
