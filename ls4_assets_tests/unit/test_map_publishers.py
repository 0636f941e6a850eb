"""The list of map publishers and its setting."""

from typing import get_args

import pytest

from docs.generate import REFERENCE
from ls4_assets.errors import ConfigurationError
from ls4_assets.publishing.maps import MAP_PUBLISHERS, map_format, publishers_of
from ls4_assets.settings import MapPublisherName, Settings, load_settings


def settings(**overrides: object) -> Settings:
    return load_settings(storage="/archive", database_url="x", public_url="http://files", map_url="http://maps", **overrides)


def test_every_name_of_the_setting_has_a_publisher() -> None:
    """A name that the setting accepts but no publisher has would fail every rebuild."""
    assert tuple(MAP_PUBLISHERS) == get_args(MapPublisherName)


def test_every_publisher_is_in_the_reference() -> None:
    page = (REFERENCE / "map-services.md").read_text()
    names = {
        each for publisher in MAP_PUBLISHERS.values() for each in (publisher.validity_check.name, publisher.smoke_check.name)
    }
    assert len(names) == 2 * len(MAP_PUBLISHERS)
    assert not [name for name in {*names, *MAP_PUBLISHERS} if f"`{name}`" not in page]


def test_publishers_are_listed_in_the_order_of_publication(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().map_publishers == ("mapserver",)
    monkeypatch.setenv("LS4_MAP_PUBLISHERS", "mosaicjson, mapserver")
    assert settings().map_publishers == ("mosaicjson", "mapserver")


@pytest.mark.parametrize("value", ["", "nonexistent", "mapserver,mapserver"])
def test_invalid_list_of_publishers_is_rejected(value: str) -> None:
    with pytest.raises(ConfigurationError, match="LS4_MAP_PUBLISHERS"):
        settings(map_publishers=value)


def test_default_format_is_that_of_mapserver_alone() -> None:
    """Its number changes with the mapfile, so that an upgrade writes the maps again, and only then."""
    assert map_format(settings()) == "mapserver 4"


def test_format_names_its_publishers() -> None:
    both = settings(map_publishers="mosaicjson,mapserver")
    assert {publisher.name for publisher in publishers_of(map_format(both))} == {"mapserver", "mosaicjson"}
    assert publishers_of("geoserver 3") == []
