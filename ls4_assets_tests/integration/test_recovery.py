"""Every row of the table in docs/how-to/recover.md: the test causes the fault and runs only the command of the row.

`TESTED_ELSEWHERE` names the tests of the rows that other modules cover.
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
from ls4_assets_tests.integration.test_reconcile import COLLECTION, FIRST, FOLDER, KEYS, TABLE, execute, fill, reconcile
from ls4_assets_tests.platform import CHECKOUT, Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

TESTS = Path(__file__).parent
PAGE = (CHECKOUT / "docs" / "how-to" / "recover.md").read_text()


@dataclass(frozen=True)
class Row:
    fault: str
    symptom: str
    fix: str

    @property
    def command(self) -> list[str]:
        """The arguments of the `ls4` command that fixes the fault, for the collection of these tests."""
        (command,) = re.findall(r"`ls4 ((?!db)[^`]*)`", self.fix)
        return [COLLECTION.name if word == "NAME" else word for word in command.split()]


ROWS = {
    cells[0]: Row(*cells)
    for row in PAGE.partition("| --- | --- | --- |\n")[2].partition("\n\n")[0].splitlines()
    for cells in [[cell.strip() for cell in row.strip("|").split("|")]]
}

TESTED_ELSEWHERE = {
    "materializations were wiped in the Dagster UI": "test_lost_history.py::test_wiped_history_heals",
    "the index database is lost": "test_db_restore.py::test_a_lost_database_is_restored_from_the_bucket_alone",
    "the index database is lost, and there is a dump of it":
        "test_db_restore.py::test_a_dump_older_than_the_bucket_catches_up_automatically",
    "a folder was deleted, moved or renamed": "test_deletion_guard.py::test_command_lists_files_and_asks",
    "a bad mapfile would be published": "test_secrets.py::test_secret_in_a_setting_fails_the_check_and_keeps_the_last_map",
    "a table of lambda-s4 has a collection's name":
        "test_adopt.py::test_a_rebuild_leaves_a_foreign_table_and_the_error_has_the_fix",
    "a mapfile was edited by hand": "test_rematerialize.py::test_index_and_map_are_rebuilt_without_the_frames",
    "a frame was made with a wrong profile": "test_rematerialize.py::test_all_frames_are_rebuilt_while_the_map_is_served",
    "deflate tifs or overviews expired": "test_chain.py::test_step_rebuilds_an_expired_intermediate",
    "a run, its worker or the daemon is killed":
        "test_kills.py::test_killed_processes_lose_no_frame_and_readers_see_no_partial_state",
    "a disk is full":
        "test_interrupted.py::test_frame_without_enough_disk_space_is_requeued_with_the_numbers",
    "the archive's disk is not mounted": "test_ingest_poll.py::test_disk_unmounted_during_a_scan_deletes_nothing",
    "S3 does not answer": "test_sync.py::test_from_the_bucket_to_the_map_and_on_through_an_outage",
    "the raw scan came after the georef tif":
        "test_checks.py::test_missing_scan_warns_until_it_arrives",
}  # fmt: skip

CauseFault = Callable[[Platform, Path], None]


def drop_history(platform: Platform, _: Path) -> None:
    platform.instance.wipe()
    for name in ("frames/Travis", "collections/Travis"):
        for key in platform.instance.get_dynamic_partitions(name):
            platform.instance.delete_dynamic_partition(name, key)


def delete_public_cog_of_replaced_frame(platform: Platform, folder: Path) -> None:
    platform.drop(KEYS[0], write_tif(folder / "new.tif", photograph(300, 320, seed=9)))
    platform.settle()
    platform.storage.delete(FIRST.cog_key)


def delete_tif(platform: Platform, folder: Path) -> None:
    (folder / "FOLDER").mkdir()
    (folder / "FOLDER" / Path(KEYS[0]).name).write_bytes(platform.storage.read(KEYS[0]))
    platform.storage.delete(KEYS[0])
    platform.settle()
    platform.rebuild()
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 2}]


def served_cog(platform: Platform) -> str:
    """Return the key of the COG on the map. For a frame that was made again it differs from the public key."""
    return str(platform.rows(f"SELECT served_key FROM ls4.frame WHERE id = '{FIRST.id}'")[0]["served_key"])


def delete_cog(platform: Platform, _: Path) -> None:
    platform.storage.delete(served_cog(platform))


def overwrite_cog(platform: Platform, _: Path) -> None:
    platform.drop(served_cog(platform), b"not written by ls4")


def delete_mosaic(platform: Platform, _: Path) -> None:
    for stored in list(platform.storage.list(f"derived/{COLLECTION.name}/overview_mosaic-")):
        platform.storage.delete(stored.key)


def swap_partitions(platform: Platform, _: Path) -> None:
    platform.instance.delete_dynamic_partition("frames/Travis", FIRST.partition)
    platform.instance.add_dynamic_partitions("frames/Travis", ["USDA_1958/frames/bw/02-08-60_6-999"])


def fail_frame(platform: Platform, _: Path) -> None:
    execute(platform, f"UPDATE ls4.source SET state = 'failed', reason = 'no memory' WHERE key = '{KEYS[0]}'")
    assert collect(platform.settings).collections[0].failed == {KEYS[0]: "no memory"}


def delete_scan(platform: Platform, _: Path) -> None:
    scan = f"{FOLDER}/scanned/02-08-60_6-101.TIF"
    platform.drop(scan, b"the raw scan")
    platform.skip_waits()
    platform.settle()
    platform.storage.delete(scan)
    assert platform.rows(f"SELECT scan_file FROM ls4.frame WHERE id = '{FIRST.id}'") == [{"scan_file": "02-08-60_6-101.TIF"}]


def truncate(key: str) -> CauseFault:
    return lambda platform, _: platform.drop(key, platform.storage.read(key)[:-100])


def delete(key: str) -> CauseFault:
    return lambda platform, _: platform.storage.delete(key)


def run_sql(statement: str) -> CauseFault:
    return lambda platform, _: execute(platform, statement)


TESTED_HERE: dict[str, list[CauseFault]] = {
    "Dagster's database is lost": [drop_history],
    "a COG was deleted in the bucket": [delete_cog],
    "a COG was written over": [overwrite_cog],
    "the public COG of a replaced frame was deleted": [delete_public_cog_of_replaced_frame],
    "a georef tif was deleted by mistake": [delete_tif],
    "a table was dropped or emptied": [run_sql(f"DROP TABLE public.{TABLE}"), run_sql(f"TRUNCATE public.{TABLE}")],
    "a table has wrong rows": [run_sql(f"DELETE FROM public.{TABLE} WHERE frame_num = '102'")],
    "a shapefile is lost or torn": [
        delete(COLLECTION.tile_index_key("bw", "_idx.zip")),
        truncate(COLLECTION.tile_index_key("bw", ".shx")),
    ],
    "a mapfile was deleted or torn": [
        delete(COLLECTION.map_key),
        truncate(COLLECTION.map_key),
        truncate(COLLECTION.map_document_key(".tilejson")),
    ],
    "an overview mosaic was deleted": [delete_mosaic],
    "partitions are out of step": [swap_partitions],
    "frames failed for a reason that is fixed now": [fail_frame],
    "a linked raw scan was deleted or renamed": [delete_scan],
}


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One archive for all rows. Each leaves it consistent."""
    folder = tmp_path_factory.mktemp("recovery")
    with running_platform(cluster, folder) as running:
        fill(running, folder)
        yield running


def run_command(platform: Platform, arguments: list[str]) -> str:
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    environment = settings | {"DAGSTER_HOME": str(platform.instance.root_directory)}
    result = CliRunner().invoke(main, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_row_has_a_test() -> None:
    assert ROWS.keys() == TESTED_HERE.keys() | TESTED_ELSEWHERE.keys()
    for test in TESTED_ELSEWHERE.values():
        module, _, name = test.partition("::")
        assert f"def {name}(" in (TESTS / module).read_text(), test


# The other rows take seconds each, because they process frames or rebuild collections.
FAST = {"a COG was deleted in the bucket", "a table was dropped or emptied", "partitions are out of step"}


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        pytest.param(fault, cause, id=f"{fault} {number}", marks=[] if fault in FAST and not number else pytest.mark.slow)
        for fault, causes in TESTED_HERE.items()
        for number, cause in enumerate(causes)
    ],
)
def test_the_command_of_the_row_fixes_the_fault(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, cause: CauseFault
) -> None:
    row = ROWS[fault]
    cause(platform, tmp_path)
    kind = re.search(r"`archive_consistency` counts an? `(\w+)`", row.symptom)
    planned = {str(action.kind) for report in reconcile(platform) for action in report.actions}
    if kind:
        assert kind[1] in planned
    if row.command[0] == "reconcile":
        assert planned
    monkeypatch.chdir(tmp_path)  # the parent of FOLDER
    run_command(platform, row.command)
    for _ in range(2):
        assert all(run.success for run in [*platform.settle(), *platform.rebuild()])
    assert reconcile(platform) == []
    (status,) = collect(platform.settings).collections
    assert (status.done, status.indexed, status.failed_count, status.rebuild) == (3, 3, 0, "none")
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 3}]
    for key in (FIRST.cog_key, COLLECTION.map_key, COLLECTION.tile_index_key("bw", "_idx.zip")):
        assert platform.storage.head(key), key


def test_the_nightly_comparison_reports_and_changes_nothing(platform: Platform) -> None:
    delete_cog(platform, Path())
    try:
        run = platform.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={ARCHIVE_CONSISTENCY})
        assert run.execute_in_process(instance=platform.instance).success
        event = platform.instance.get_latest_materialization_event(ARCHIVE_CONSISTENCY)
        assert event and event.asset_materialization
        metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
        assert (metadata["collections"], metadata["inconsistencies"], metadata["requeue"]) == (1, 1, 1)
        assert f"| {COLLECTION.name} | 1 requeue |" in str(metadata["by_collection"])
        assert platform.state(KEYS[0]) == ("done", None)
    finally:
        run_command(platform, ["reconcile", "--apply"])
        platform.settle()
