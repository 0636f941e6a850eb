"""The single server's composition, read without Docker: what it names is looked up in the images' files and the settings."""

import re
from typing import Any

import yaml

from ls4_assets.settings import OTHER_VARIABLES, Settings
from ls4_assets_tests.platform import CHECKOUT

TEXT = (CHECKOUT / "deploy" / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_services_are_built_from_the_two_images() -> None:
    images = {name: service["image"].partition(":")[0] for name, service in SERVICES.items()}
    dagster = dict.fromkeys(("init", "migrate", "code", "daemon", "webserver"), "ls4")
    assert images == dagster | {"postgres": "postgis/postgis", "maps": "ls4-mapserver"}
    for service in SERVICES.values():
        if "build" in service:
            assert (CHECKOUT / service["build"]["dockerfile"]).is_file()


def test_what_is_mounted_is_a_named_volume_or_the_archive() -> None:
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used - {"${LS4_ARCHIVE"} == set(COMPOSE["volumes"])


def test_whoever_breaks_into_the_map_server_cannot_write_to_the_archive() -> None:
    """It was mounted for writing into the one container that everybody reaches."""
    assert [volume for volume in SERVICES["maps"]["volumes"] if "LS4_ARCHIVE" in volume] == ["${LS4_ARCHIVE:?}:/srv/archive:ro"]


def test_nothing_but_the_maps_is_published_to_others() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"maps": ["80:8080"], "webserver": ["127.0.0.1:3000:3000"]}


def test_every_password_comes_from_the_operators_file_and_is_asked_for() -> None:
    needed = set(re.findall(r"\$\{(\w+)\}", TEXT))
    assert needed == set()  # `${NAME}` would be empty where `${NAME:?}` is rejected
    told = TEXT.partition("name: ls4")[0]
    assert [name for name in set(re.findall(r"\$\{(\w+):\?\}", TEXT)) if name not in told] == []


def test_what_becomes_part_of_an_address_is_told_to_be_plain() -> None:
    """A password with @ or / in it kept Dagster from its database, and nothing said why."""
    assert re.findall(r"://\w+:\$\{(\w+):\?\}@", TEXT) == ["LS4_PASSWORD_DAGSTER"]
    assert "letters and digits alone" in TEXT.partition("name: ls4")[0]


def test_settings_are_settings_and_dagster_finds_what_it_names() -> None:
    known = {f"LS4_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    named = set(re.findall(r"\{env: (\w+)\}", (CHECKOUT / "dagster.yaml").read_text()))
    named |= set(re.findall(r"\{env: (\w+)\}", (CHECKOUT / "deploy" / "workspace.yaml").read_text()))
    for name in ("migrate", "code", "daemon", "webserver"):
        given = SERVICES[name]["environment"]
        assert {each for each in given if each.startswith("LS4_")} - known == set()
        assert named - set(given) == set()


def test_the_daemon_sees_the_processes_of_runs() -> None:
    """They are the code server's children, and its launcher asks the system whether they live."""
    assert SERVICES["daemon"]["pid"] == "service:code"
