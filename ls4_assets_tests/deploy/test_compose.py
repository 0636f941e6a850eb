"""compose.yaml of a single server, checked without Docker against the images' files and the settings."""

import re
from typing import Any

import yaml

from ls4_assets.runtime import warm_service
from ls4_assets.settings import OTHER_VARIABLES, Settings
from ls4_assets_tests.platform import CHECKOUT

TEXT = (CHECKOUT / "deploy" / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_services_are_built_from_the_two_images() -> None:
    images = {name: service["image"].partition(":")[0] for name, service in SERVICES.items()}
    dagster = dict.fromkeys(("init", "migrate", "runs", "code", "daemon", "webserver"), "ls4")
    assert images == dagster | {"postgres": "postgis/postgis", "maps": "ls4-mapserver"}
    for service in SERVICES.values():
        if "build" in service:
            assert (CHECKOUT / service["build"]["dockerfile"]).is_file()


def test_every_mount_is_a_named_volume_or_the_archive() -> None:
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used - {"${LS4_ARCHIVE"} == set(COMPOSE["volumes"])


def test_map_server_cannot_write_to_the_archive() -> None:
    """The archive was mounted read-write in the only public container."""
    assert [volume for volume in SERVICES["maps"]["volumes"] if "LS4_ARCHIVE" in volume] == ["${LS4_ARCHIVE:?}:/srv/archive:ro"]


def test_only_the_maps_are_published_to_other_hosts() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"maps": ["80:8080"], "webserver": ["127.0.0.1:3000:3000"]}


def test_monitor_is_not_part_of_what_it_watches() -> None:
    """It runs while the daemon, the code server and the database are down, and the maps show what it writes."""
    webserver = SERVICES["webserver"]
    assert "pid" not in webserver and webserver["restart"] == "unless-stopped"
    assert webserver["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert webserver["environment"]["LS4_MONITOR_DIR"] == "/srv/monitor"
    assert [name for name, each in SERVICES.items() if "LS4_MONITOR_DIR" in each.get("environment", {})] == ["webserver"]
    assert "monitor:/srv/monitor" in webserver["volumes"] and "monitor:/srv/monitor:ro" in SERVICES["maps"]["volumes"]
    assert set(webserver["volumes"]) - {"monitor:/srv/monitor"} == set(SERVICES["daemon"]["volumes"])
    assert "--monitor=/srv/monitor" in SERVICES["maps"]["command"]
    # A new volume gets the owner of the folder in the image.
    assert "install -d -o ls4 -g ls4 /work /srv/monitor " in (CHECKOUT / "deploy" / "Dockerfile").read_text()


def test_every_variable_is_required_and_documented() -> None:
    optional = set(re.findall(r"\$\{(\w+)\}", TEXT))
    assert optional == set()  # a missing `${NAME}` would be empty; a missing `${NAME:?}` is rejected
    documentation = TEXT.partition("name: ls4")[0]
    assert [name for name in set(re.findall(r"\$\{(\w+):\?\}", TEXT)) if name not in documentation] == []


def test_password_in_a_url_is_documented_as_letters_and_digits() -> None:
    """With @ or / in its password, Dagster could not connect to its database, and the error did not show the cause."""
    assert re.findall(r"://\w+:\$\{(\w+):\?\}@", TEXT) == ["LS4_PASSWORD_DAGSTER"]
    assert "letters and digits only" in TEXT.partition("name: ls4")[0]


def test_settings_are_valid_and_dagster_yaml_finds_its_variables() -> None:
    valid = {f"LS4_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    required = set(re.findall(r"\{env: (\w+)\}", (CHECKOUT / "dagster.yaml").read_text()))
    required |= set(re.findall(r"\{env: (\w+)\}", (CHECKOUT / "deploy" / "workspace.yaml").read_text()))
    for service in ("migrate", "runs", "code", "daemon", "webserver"):
        environment = SERVICES[service]["environment"]
        assert {name for name in environment if name.startswith("LS4_")} - valid == set()
        assert required - set(environment) == set()


def test_pipeline_and_map_server_read_the_same_archive_file() -> None:
    """Both images contain deploy/archive; a part without the variable would describe another archive."""
    for service in ("migrate", "runs", "code", "daemon", "webserver", "maps"):
        assert SERVICES[service]["environment"]["LS4_ARCHIVE_FILE"] == "${LS4_ARCHIVE_FILE:-}"
    for name in ("Dockerfile", "mapserver.Dockerfile"):
        assert "COPY deploy/archive /opt/archive\n" in (CHECKOUT / "deploy" / name).read_text()
        assert "!deploy/archive\n" in (CHECKOUT / "deploy" / f"{name}.dockerignore").read_text()


def test_pipeline_and_map_server_use_the_same_proj_grids() -> None:
    for service in ("migrate", "runs", "code", "daemon", "webserver", "maps"):
        environment = SERVICES[service]["environment"]
        assert environment["LS4_PROJ_GRIDS"] == "${LS4_PROJ_GRIDS:-}", service
        assert environment["LS4_PROJ_NETWORK"] == "${LS4_PROJ_NETWORK:-false}", service


def test_daemon_can_see_the_processes_of_runs() -> None:
    """Runs that the warm service does not accept are child processes of the code server, and the launcher checks on them."""
    assert SERVICES["daemon"]["pid"] == "service:code"


def test_warm_service_accepts_all_runs_at_a_time_and_has_time_to_finish_them() -> None:
    """A run more than it has slots for would start in the code server, ten times slower."""
    service = SERVICES["runs"]
    runs = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())["concurrency"]["runs"]["max_concurrent_runs"]
    assert f"--slots={runs}" in service["command"]
    seconds = int(service["stop_grace_period"].removesuffix("s"))
    assert seconds > warm_service.DRAIN_SECONDS + warm_service.INTERRUPT_SECONDS
