"""Log lines are one JSON object each, also when several processes write them."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from ls4_assets import logs


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "ls4.jsonl"
    logs.configure(path)
    yield path
    logs.configure()


def test_event_is_one_json_object_on_stderr_and_in_the_file(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(file)
    stages = {"cog": {"seconds": 1.5, "bytes_in": 10, "bytes_out": 7}}
    logs.emit("frame", logging.ERROR, run="r1", batch=None, reason="zwei\nZeilen é", stages=stages, path=Path("x"))
    (line,) = file.read_text(encoding="utf-8").splitlines()
    assert capfd.readouterr().err.splitlines()[-1] == line
    fields = json.loads(line)
    assert datetime.fromisoformat(fields.pop("time")).tzinfo is not None
    assert fields == {"event": "frame", "level": "error", "run": "r1", "reason": "zwei\nZeilen é", "stages": stages, "path": "x"}


def test_new_file_is_started_after_rotation(file: Path) -> None:
    logs.emit("frame")
    file.rename(file.with_suffix(".1"))
    logs.emit("batch")
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == ["batch"]


def test_lines_of_several_processes_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "ls4.jsonl"
    program = (
        f"from ls4_assets import logs; from pathlib import Path; logs.configure(Path({str(path)!r}))\n"
        "for i in range(300): logs.emit('frame', reason='x' * 3000, i=i)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    numbers = [json.loads(line)["i"] for line in path.read_text().splitlines()]
    assert sorted(numbers) == sorted([*range(300)] * 3)


def test_missing_folder_does_not_fail_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(tmp_path / "away" / "ls4.jsonl")
    logs.emit("frame", run="r1")
    assert '"run": "r1"' in capfd.readouterr().err
    logs.configure()
