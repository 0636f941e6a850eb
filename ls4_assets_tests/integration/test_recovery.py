"""Every line of docs/recovery.md tried: each fault is caused, seen, and mended by the command that stands there and nothing else.

Where another module tries a line already, or it takes a service that is killed, the line names that test.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from ls4_assets.assets.keys import ARCHIVE_CONSISTENCY
from ls4_assets.cli.main import main
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect
from ls4_assets_tests.integration.test_reconcile import FIRST, FOLDER, KEYS, OF, TABLE, execute, fill, reconciled
from ls4_assets_tests.platform import CHECKOUT, Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

HERE = Path(__file__).parent
PAGE = (CHECKOUT / "docs" / "recovery.md").read_text()


@dataclass(frozen=True)
class Line:
    fault: str
    seen: str
    mends: str

    @property
    def command(self) -> list[str]:
        """The one of ls4's that mends it, as typed for the collection of these tests."""
        (typed,) = re.findall(r"`ls4 ((?!db)[^`]*)`", self.mends)
        return [OF.name if word == "NAME" else word for word in typed.split()]


LINES = {
    cells[0]: Line(*cells)
    for row in PAGE.partition("| --- | --- | --- |\n")[2].partition("\n\n")[0].splitlines()
    for cells in [[cell.strip() for cell in row.strip("|").split("|")]]
}

ELSEWHERE = {
    "the index database is lost": "test_rebuild.py::test_a_lost_database_is_restored_from_the_bucket_alone",
    "the index database is lost, and there is a dump of it":
        "test_rebuild.py::test_a_dump_that_is_older_than_the_bucket_catches_up_by_itself",
    "a folder was deleted, moved or renamed": "test_deletion_guard.py::test_the_command_asks_and_names_what_goes",
    "a bad mapfile would be published": "test_secrets.py::test_a_secret_in_a_setting_fails_the_check_and_the_last_good_map_stays",
    "a table of lambda-s4 has a collection's name":
        "test_adopt.py::test_a_rebuild_leaves_a_table_of_another_hand_and_says_what_to_do",
    "a mapfile was edited by hand": "test_rematerialize.py::test_index_and_map_are_made_anew_without_their_frames",
    "a frame was made with a wrong profile": "test_rematerialize.py::test_all_frames_are_made_anew_while_the_map_is_served",
    "deflate tifs or overviews expired": "test_chain.py::test_a_step_remakes_an_intermediate_that_expired",
    "a run, its worker or the daemon is killed":
        "test_kills.py::test_whatever_is_killed_whenever_every_frame_ends_right_and_readers_see_whole_things",
    "a disk is full":
        "test_interrupted.py::test_a_frame_for_which_there_is_no_room_waits_with_the_numbers_and_is_not_called_failed",
    "the archive's disk is not mounted": "test_intake.py::test_a_disk_that_goes_away_during_a_look_deletes_nothing",
    "S3 does not answer": "test_sync.py::test_from_the_bucket_to_the_map_and_on_through_an_outage",
    "the raw scan came after the georef tif":
        "test_checks.py::test_a_missing_scan_warns_and_resolves_by_itself_when_it_arrives",
}  # fmt: skip

Break = Callable[[Platform, Path], None]


def drop_history(platform: Platform, _: Path) -> None:
    platform.instance.wipe()
    for name in ("frames/Travis", "collections/Travis"):
        for key in platform.instance.get_dynamic_partitions(name):
            platform.instance.delete_dynamic_partition(name, key)


def replace_and_lose_public(platform: Platform, folder: Path) -> None:
    platform.drop(KEYS[0], write_tif(folder / "new.tif", photograph(300, 320, seed=9)))
    platform.settle()
    platform.storage.delete(FIRST.cog_key)


def delete_a_tif(platform: Platform, folder: Path) -> None:
    (folder / "FOLDER").mkdir()
    (folder / "FOLDER" / Path(KEYS[0]).name).write_bytes(platform.storage.read(KEYS[0]))
    platform.storage.delete(KEYS[0])
    platform.settle()
    platform.rebuild()
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 2}]


def served_cog(platform: Platform) -> str:
    """Of a frame that was replaced or made anew it is not the public one."""
    return str(platform.rows(f"SELECT served_key FROM ls4.frame WHERE id = '{FIRST.id}'")[0]["served_key"])


def lose_cog(platform: Platform, _: Path) -> None:
    platform.storage.delete(served_cog(platform))


def tear_cog(platform: Platform, _: Path) -> None:
    platform.drop(served_cog(platform), b"not what ls4 put there")


def lose_mosaic(platform: Platform, _: Path) -> None:
    for found in list(platform.storage.list(f"derived/{OF.name}/overview_mosaic-")):
        platform.storage.delete(found.key)


def upset_partitions(platform: Platform, _: Path) -> None:
    platform.instance.delete_dynamic_partition("frames/Travis", FIRST.partition)
    platform.instance.add_dynamic_partitions("frames/Travis", ["USDA_1958/frames/bw/02-08-60_6-999"])


def fail_a_frame(platform: Platform, _: Path) -> None:
    execute(platform, f"UPDATE ls4.source SET state = 'failed', reason = 'no memory' WHERE key = '{KEYS[0]}'")
    assert collect(platform.settings).collections[0].failed == {KEYS[0]: "no memory"}


def lose_scan(platform: Platform, _: Path) -> None:
    scan = f"{FOLDER}/scanned/02-08-60_6-101.TIF"
    platform.drop(scan, b"the raw scan")
    platform.skip_waits()
    platform.settle()
    platform.storage.delete(scan)
    assert platform.rows(f"SELECT scan_file FROM ls4.frame WHERE id = '{FIRST.id}'") == [{"scan_file": "02-08-60_6-101.TIF"}]


def torn(key: str) -> Break:
    return lambda platform, _: platform.drop(key, platform.storage.read(key)[:-100])


def lost(key: str) -> Break:
    return lambda platform, _: platform.storage.delete(key)


def said(statement: str) -> Break:
    return lambda platform, _: execute(platform, statement)


HERE_TRIED: dict[str, list[Break]] = {
    "Dagster's database is lost": [drop_history],
    "a COG was deleted in the bucket": [lose_cog],
    "a COG was written over": [tear_cog],
    "the public COG of a replaced frame was deleted": [replace_and_lose_public],
    "a georef tif was deleted by mistake": [delete_a_tif],
    "a table was dropped or emptied": [said(f"DROP TABLE public.{TABLE}"), said(f"TRUNCATE public.{TABLE}")],
    "a table has wrong rows": [said(f"DELETE FROM public.{TABLE} WHERE frame_num = '102'")],
    "a shapefile is lost or torn": [lost(OF.tile_index_key("bw", "_idx.zip")), torn(OF.tile_index_key("bw", ".shx"))],
    "a mapfile was deleted or torn": [lost(OF.map_key), torn(OF.map_key), torn(OF.map_document_key(".tilejson"))],
    "an overview mosaic was deleted": [lose_mosaic],
    "partitions are out of step": [upset_partitions],
    "frames failed for a reason that is mended now": [fail_a_frame],
    "a linked raw scan was deleted or renamed": [lose_scan],
}


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One archive for all lines: each leaves it whole."""
    folder = tmp_path_factory.mktemp("recovery")
    with running_platform(cluster, folder) as running:
        fill(running, folder)
        yield running


def typed(platform: Platform, arguments: list[str]) -> str:
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    environment = settings | {"DAGSTER_HOME": str(platform.instance.root_directory)}
    done = CliRunner().invoke(main, arguments, env=environment)
    assert done.exit_code == 0, done.output
    return done.output


def test_every_line_is_tried() -> None:
    assert LINES.keys() == HERE_TRIED.keys() | ELSEWHERE.keys()
    for where in ELSEWHERE.values():
        module, _, name = where.partition("::")
        assert f"def {name}(" in (HERE / module).read_text(), where


# The others take seconds each, as frames are made or collections rebuilt.
FAST = {"a COG was deleted in the bucket", "a table was dropped or emptied", "partitions are out of step"}


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        pytest.param(fault, cause, id=f"{fault} {number}", marks=[] if fault in FAST and not number else pytest.mark.slow)
        for fault, causes in HERE_TRIED.items()
        for number, cause in enumerate(causes)
    ],
)
def test_the_command_of_the_line_mends_the_fault(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, cause: Break
) -> None:
    line = LINES[fault]
    cause(platform, tmp_path)
    counted = re.search(r"`archive_consistency` counts an? `(\w+)`", line.seen)
    out_of_step = {str(action.kind) for report in reconciled(platform) for action in report.actions}
    if counted:
        assert counted[1] in out_of_step
    if line.command[0] == "reconcile":
        assert out_of_step
    monkeypatch.chdir(tmp_path)  # where FOLDER is
    typed(platform, line.command)
    for _ in range(2):
        assert all(run.success for run in [*platform.settle(), *platform.rebuild()])
    assert reconciled(platform) == []
    (status,) = collect(platform.settings).collections
    assert (status.done, status.indexed, status.failed_count, status.rebuild) == (3, 3, 0, "none")
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 3}]
    for key in (FIRST.cog_key, OF.map_key, OF.tile_index_key("bw", "_idx.zip")):
        assert platform.storage.head(key), key


def test_the_nightly_report_tells_and_changes_nothing(platform: Platform) -> None:
    lose_cog(platform, Path())
    try:
        run = platform.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={ARCHIVE_CONSISTENCY})
        assert run.execute_in_process(instance=platform.instance).success
        event = platform.instance.get_latest_materialization_event(ARCHIVE_CONSISTENCY)
        assert event and event.asset_materialization
        told = {name: value.value for name, value in event.asset_materialization.metadata.items()}
        assert (told["collections"], told["out_of_step"], told["requeue"]) == (1, 1, 1)
        assert f"| {OF.name} | 1 requeue |" in str(told["by_collection"])
        assert platform.state(KEYS[0]) == ("done", None)
    finally:
        typed(platform, ["reconcile", "--apply"])
        platform.settle()
