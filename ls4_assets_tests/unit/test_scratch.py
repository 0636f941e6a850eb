"""Scratch folders, with real processes that are killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resources.directory_storage import DirectoryStorage
from resources.scratch import scratch_folder

OWNER = """
import sys, time
from pathlib import Path
from resources.scratch import scratch_folder
with scratch_folder("ls4-run-", Path(sys.argv[1])) as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "partial.tif").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
"""
WRITER = """
import os, sys, time
from pathlib import Path
from resources.directory_storage import DirectoryStorage
with DirectoryStorage(Path(sys.argv[1]))._unfinished("bw/x.tif") as unfinished:
    unfinished.write(b"partial")
    print(os.path.realpath(f"/proc/self/fd/{unfinished.folder}") + "/x.tif", flush=True)
    time.sleep(600)
"""


@contextmanager
def process(code: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that runs `code` on `folder`, and the path that it printed."""
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        try:
            yield running, Path(running.stdout.readline().strip())
        finally:
            running.kill()


def test_folder_is_removed_at_the_end_of_its_block(tmp_path: Path) -> None:
    with scratch_folder("ls4-run-", tmp_path) as folder:
        (folder / "x").write_bytes(b"x")
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_next_folder_removes_those_of_killed_processes_only(tmp_path: Path) -> None:
    """Scratch folders of killed runs filled the disk."""
    (tmp_path / "ls4-postgres-x").mkdir()
    with process(OWNER, tmp_path) as (killed, orphan), process(OWNER, tmp_path) as (_, held):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (orphan / "deep" / "partial.tif").exists()
        with scratch_folder("ls4-run-", tmp_path) as folder:
            assert set(tmp_path.iterdir()) == {held, folder, tmp_path / "ls4-postgres-x"}
        assert (held / "deep" / "partial.tif").exists()


def test_processes_that_start_together_do_not_remove_each_others_folders(tmp_path: Path) -> None:
    """A folder was removed between its creation and its lock."""
    code = (
        "import sys; from pathlib import Path; from resources.scratch import scratch_folder\n"
        "for number in range(300):\n"
        "    with scratch_folder('ls4-run-', Path(sys.argv[1])) as folder:\n"
        "        (folder / 'x').write_bytes(b'x'); assert (folder / 'x').exists()\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [started.wait(60) for started in processes] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_partial_object_of_a_killed_writer_is_not_listed_and_is_removed_by_the_next_write(tmp_path: Path) -> None:
    """`.x.tif.<number>` stayed beside the target forever when its writer was killed."""
    storage = DirectoryStorage(tmp_path)
    storage.put("bw/y.tif", b"whole")
    with process(WRITER, tmp_path) as (writer, temp):
        storage.put("bw/y.tif", b"whole")
        assert temp.exists(), "its writer is running"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert [stored.key for stored in storage.list("")] == ["bw/y.tif"]
    storage.put("bw/z.tif", b"whole")
    assert not temp.exists()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"y.tif", "z.tif"}


def test_archive_on_two_disks_is_rejected_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(*arguments: object, **folders: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "replace", other_disk)
    with pytest.raises(Exception, match=r"bw is on another disk .* mount one disk for both\."):
        DirectoryStorage(tmp_path).put("bw/x.tif", b"x")
