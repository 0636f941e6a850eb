"""What makes the command line pleasant: completion, prefixes, colors, the log, waiting for the map, a database that is down."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from affine import Affine

from ls4_assets import logs
from ls4_assets.local.postgres import Cluster
from ls4_assets.log_reader import SERVICES
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

LS4 = str(Path(sys.executable).with_name("ls4"))
TRAVIS, BASTROP = "bw/Travis/USDA_1958/frames", "bw/Bastrop/USDA_1940/frames"
PLACE = Affine(1, 0, -10_880_000.0, 0, -1, 3_540_000.0)
# Nothing listens there.
DOWN = "postgresql+psycopg2://ls4:secret-word@127.0.0.1:1/ls4"


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A frame of two collections on the map."""
    folder = tmp_path_factory.mktemp("platform")
    logs.configure(folder / "ls4.jsonl")
    with running_platform(cluster, folder) as running:
        for path in (TRAVIS, BASTROP):
            running.drop(
                f"{path}/georef/02-08-60_6-1.tif", write_tif(folder / "1.tif", photograph(200, 220, 1, 1), transform=PLACE)
            )
        running.settle()
        yield running
    logs.configure()


def environment(platform: Platform, **variables: str) -> dict[str, str]:
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    return {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | settings | variables


def ls4(platform: Platform, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LS4, *arguments], env=environment(platform, **variables), capture_output=True, text=True, timeout=120, check=False
    )


def complete(platform: Platform, words: str, **variables: str) -> list[str]:
    last = str(len(words.split(" ")) - 1)
    result = ls4(platform, _LS4_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=last, **variables)
    assert result.stderr == ""
    return [line.removeprefix("plain,") for line in result.stdout.splitlines() if line]


@pytest.mark.parametrize(
    "command",
    ["status", "reconcile", "rematerialize", "confirm-deletion", "open", "logs", "retry --collection"],
)
def test_collections_complete_by_their_beginning_in_any_case(platform: Platform, command: str) -> None:
    assert complete(platform, f"ls4 {command} trav") == ["Travis_USDA_1958_frames"]


@pytest.mark.parametrize("command", ["adopt", "ingest . --collection"])
def test_paths_of_collections_complete(platform: Platform, command: str) -> None:
    assert complete(platform, f"ls4 {command} bw/") == [BASTROP, TRAVIS]


def test_completion_without_a_database_is_silent_and_imports_no_dagster(platform: Platform) -> None:
    assert complete(platform, "ls4 status trav", LS4_DATABASE_URL=DOWN) == []
    program = "import sys, ls4_assets.cli.collection_names as c; c._list(c._NAMES); print('dagster' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment(platform), capture_output=True, text=True, check=True
    )
    assert output.stdout == "False\n"


def test_unique_beginning_of_a_name_is_enough(platform: Platform) -> None:
    assert ls4(platform, "open", "Trav").stdout.strip().endswith("/#travis_usda_1958_frames")
    # Without the view, the page of the whole asset appeared.
    page = ls4(platform, "open", "Trav", "--ui", LS4_DAGSTER_URL="http://dagster.test").stdout.strip()
    assert page == "http://dagster.test/assets/Travis/tile_index?view=partitions&partition=USDA_1958%2Fframes"
    assert "No failed frames in Travis_USDA_1958_frames" in ls4(platform, "retry", "--collection", "travis").stdout
    platform.drop(
        "bw/Travis/USDA_1964/frames/georef/02-08-64_6-1.tif", platform.storage.read(f"{TRAVIS}/georef/02-08-60_6-1.tif")
    )
    platform.settle()
    result = ls4(platform, "open", "Travis")
    assert result.returncode == 1 and result.stderr == (
        "Error: 2 collections begin with Travis: Travis_USDA_1958_frames, Travis_USDA_1964_frames; give more of the name.\n"
    )


@pytest.mark.parametrize(
    "command",
    ["status", "reconcile", "adopt", "rematerialize x", "retry", "confirm-deletion x", "scan-inventory x", "doctor",
     "db upgrade", "db restore", "open x"],
)  # fmt: skip
def test_database_that_is_down_is_one_sentence(platform: Platform, command: str) -> None:
    """Commands imported Dagster, whose client retried, and `db upgrade` printed a traceback of SQLAlchemy."""
    started = time.monotonic()
    result = ls4(platform, *command.split(), LS4_DATABASE_URL=DOWN)
    seconds = time.monotonic() - started
    (line,) = (result.stdout + result.stderr).splitlines()
    assert result.returncode == 1 and "atabase does not answer (connection to server at" in line
    assert "sqlalche" not in line and "secret-word" not in line and "correct LS4_DATABASE_URL" in line
    # 0.7 to 1 s of processor time (imports of SQLAlchemy and boto3; not of Dagster): 2 s with five times as many processes as
    # cores. Dagster's client would retry for a minute.
    assert seconds < 20, seconds


def test_doctor_tries_storage_maps_and_services(platform: Platform) -> None:
    """It listed the grids of PROJ only. This platform has no daemon and no web front end, and a storage that works."""
    result = ls4(platform, "doctor", DAGSTER_HOME=platform.instance.root_directory)
    lines = [line.split(" ")[:2] for line in result.stdout.splitlines() if line.startswith(("OK: ", "ERROR: "))]
    assert result.returncode == 1
    assert lines == [["OK:", "database:"], ["OK:", "storage"], ["ERROR:", "maps:"], ["ERROR:", "services:"]]
    assert "the daemon has not reported" in result.stdout and "Restart it" in result.stdout
    missing = ls4(platform, "doctor", "--json", LS4_STORAGE="/proc/version")
    (storage,) = [part for part in json.loads(missing.stdout)["parts"] if part["part"].startswith("storage")]
    assert not storage["is_right"] and "Correct its permissions or LS4_STORAGE." in storage["sentence"]


def test_color_is_for_terminals_and_respects_no_color(platform: Platform) -> None:
    def on_terminal(**variables: str) -> str:
        command = ["script", "-qec", f"{LS4} status --check", "/dev/null"]
        return subprocess.run(
            command, env=environment(platform, LS4_DATABASE_URL=DOWN, **variables), capture_output=True, text=True, check=False
        ).stdout

    assert on_terminal().startswith("\033[31mCRITICAL: ")
    assert on_terminal(NO_COLOR="1").startswith("CRITICAL: ")
    assert ls4(platform, "status", "--check", LS4_DATABASE_URL=DOWN).stdout.startswith("CRITICAL: ")


def test_ingest_waits_for_the_map_and_ends_with_the_rejected(platform: Platform, tmp_path: Path) -> None:
    write_tif(tmp_path / "02-08-60_6-7.tif", photograph(200, 220, 1, 7), transform=PLACE)
    (tmp_path / "02-08-60_6-8.tif").write_bytes(b"not a tif")
    command = [LS4, "ingest", str(tmp_path), "--collection", TRAVIS, "--wait"]
    process = subprocess.Popen(command, env=environment(platform), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        platform.settle()
        time.sleep(1)
    output, errors = process.communicate(timeout=10)
    assert "rejected: bw/Travis/USDA_1958/frames/georef/02-08-60_6-8.tif: 02-08-60_6-8.tif is not a tif" in output
    assert "On the map: 1 of 2 photographs of Travis_USDA_1958_frames, " in output
    assert (process.returncode, errors) == (1, ""), "no progress bar outside of a terminal"


def test_log_is_filtered_and_followed(platform: Platform, tmp_path: Path) -> None:
    file = tmp_path / "ls4.jsonl"
    head = {"time": "2026-11-23T12:00:00.000+00:00"}
    lines = [
        head | {"level": "info", "event": "frame", "collection": "Travis_USDA_1958_frames", "frame": "bw/x/6-107"},
        head
        | {"level": "error", "event": "frame", "collection": "Bastrop_USDA_1940_frames", "frame": "bw/y/6-1", "reason": "It is"},
        head | {"level": "warning", "event": "scan"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "no JSON\n")

    def read(*options: str) -> list[str]:
        result = ls4(platform, "logs", "--json", *options, LS4_LOG_FILE=str(file))
        assert (result.returncode, result.stderr) == (0, "")
        return [json.loads(line).get("frame", "") for line in result.stdout.splitlines()]

    assert read() == ["bw/x/6-107", "bw/y/6-1", ""] and read("--last", "1") == [""]
    assert read("travis") == read("--frame", "6-107") == ["bw/x/6-107"]
    assert read("--level", "error") == ["bw/y/6-1"] and read("--service", "sensors") == [""]
    text = ls4(platform, "logs", "Bastrop", LS4_LOG_FILE=str(file)).stdout
    assert text.startswith("ERROR   2026-11-23 12:00:00 frame collection=Bastrop") and 'reason="It is"' in text
    command = [LS4, "logs", "--json", "--level", "error", "--follow"]
    with subprocess.Popen(
        command, env=environment(platform, LS4_LOG_FILE=str(file)), stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout and "6-1" in follower.stdout.readline()
        file.rename(tmp_path / "rotated")
        file.write_text(json.dumps(lines[1] | {"frame": "bw/y/6-2"}) + "\n")
        assert "6-2" in follower.stdout.readline()
        follower.kill()


def test_every_event_belongs_to_a_service() -> None:
    assert set(SERVICES) == set(logs.EVENTS)
