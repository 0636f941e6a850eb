"""Folders that go with their process, with real processes that are killed."""

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
    (folder / "deep" / "half.tif").write_bytes(b"x")
    print(folder, flush=True)
    time.sleep(600)
"""
WRITER = """
import sys, time
from pathlib import Path
from resources.directory_storage import DirectoryStorage
with DirectoryStorage(Path(sys.argv[1]))._half("bw/x.tif") as half:
    half.write_bytes(b"half of it")
    print(half, flush=True)
    time.sleep(600)
"""


@contextmanager
def process(code: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that holds something in `folder`, and the path that it printed."""
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        try:
            yield running, Path(running.stdout.readline().strip())
        finally:
            running.kill()


def test_a_folder_is_there_for_its_block_only(tmp_path: Path) -> None:
    with scratch_folder("ls4-run-", tmp_path) as folder:
        (folder / "x").write_bytes(b"x")
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    """Scratch folders of killed runs filled the disk, as nobody dared to delete them."""
    (tmp_path / "ls4-postgres-x").mkdir()
    with process(OWNER, tmp_path) as (killed, left), process(OWNER, tmp_path) as (_, held):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert (left / "deep" / "half.tif").exists()
        with scratch_folder("ls4-run-", tmp_path) as mine:
            assert set(tmp_path.iterdir()) == {held, mine, tmp_path / "ls4-postgres-x"}
        assert (held / "deep" / "half.tif").exists()


def test_many_processes_that_begin_at_once_leave_each_other_alone(tmp_path: Path) -> None:
    """A folder was swept between its making and its locking."""
    code = (
        "import sys; from pathlib import Path; from resources.scratch import scratch_folder\n"
        "for number in range(300):\n"
        "    with scratch_folder('ls4-run-', Path(sys.argv[1])) as folder:\n"
        "        (folder / 'x').write_bytes(b'x'); assert (folder / 'x').exists()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [each.wait(60) for each in running] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_half_an_object_of_a_killed_writer_is_not_listed_and_goes_with_the_next_write(tmp_path: Path) -> None:
    """`.x.tif.<number>` stayed beside the target for ever when its writer was killed."""
    storage = DirectoryStorage(tmp_path)
    storage.put("bw/y.tif", b"whole")
    with process(WRITER, tmp_path) as (writer, half):
        storage.put("bw/y.tif", b"whole")
        assert half.exists(), "its writer is alive"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert [found.key for found in storage.list("")] == ["bw/y.tif"]
    storage.put("bw/z.tif", b"whole")
    assert not half.exists()
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"y.tif", "z.tif"}


def test_a_part_of_the_archive_on_another_disk_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(self: Path, target: Path) -> Path:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "replace", other_disk)
    with pytest.raises(Exception, match=r"bw lies on another disk .* mount one disk for all of it\."):
        DirectoryStorage(tmp_path).put("bw/x.tif", b"x")
