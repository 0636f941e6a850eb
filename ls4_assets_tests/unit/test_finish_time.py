"""When a file counts as finished: the times that a file system gives to files of copy programs."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from resources.entries import finish_time

CONTENT = b"II*\x00" + bytes(500_000)


def is_finished(path: Path) -> bool:
    return finish_time(path.stat()) is not None


def test_file_is_unfinished_while_it_is_written(tmp_path: Path) -> None:
    """Every write sets both times to the same value, whatever happened to the file before."""
    path = tmp_path / "x.tif"
    with path.open("wb", buffering=0) as file:
        for _ in range(3):
            file.write(CONTENT)
            assert not is_finished(path)
            time.sleep(0.02)
        path.chmod(0o640)
        assert is_finished(path)
        time.sleep(0.02)
        file.write(CONTENT)
        assert not is_finished(path)
        time.sleep(0.02)
        file.truncate(2_000_000)  # as a program that reserves the space first
        assert not is_finished(path)


def test_renamed_file_is_finished(tmp_path: Path) -> None:
    (tmp_path / ".part").write_bytes(CONTENT)
    time.sleep(0.02)
    path = (tmp_path / ".part").rename(tmp_path / "x.tif")
    assert is_finished(path)


@pytest.mark.parametrize("command", [["cp", "-p"], ["mv"], ["rsync", "-t"], ["rsync"]])
def test_copy_programs_finish_their_files(tmp_path: Path, command: list[str]) -> None:
    """`cp` without -p does not: its files settle."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    source, target = tmp_path / "scan.tif", tmp_path / "archive" / "scan.tif"
    target.parent.mkdir()
    source.write_bytes(CONTENT)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    subprocess.run([*command, source, target], check=True)
    assert is_finished(target)


def test_file_of_the_future_is_not_finished(tmp_path: Path) -> None:
    """The clock of the computer that wrote it is ahead, so its times say nothing."""
    path = tmp_path / "x.tif"
    path.write_bytes(CONTENT)
    os.utime(path, (4_000_000_000, 4_000_000_000))
    assert not is_finished(path)
