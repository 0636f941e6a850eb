"""The planner: every state transition of a dropped tif, without storage or database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ls4_assets.db.schema import SourceState
from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.ingest.arrivals import SourceSnapshot
from ls4_assets.ingest.listing import DroppedFile, pair_sidecars
from ls4_assets.ingest.planner import Rules, SourceChanges, plan_changes
from resources.storage import StoredObject, combined_version

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTLE = timedelta(seconds=3)
FOLDER = "bw/Travis/USDA_1958/frames/georef"
TIF = f"{FOLDER}/02-08-60_6-107.tif"


def plan(
    listed: list[DroppedFile],
    rows: dict[str, SourceSnapshot] | None = None,
    settle: timedelta = SETTLE,
    tables: dict[str, str] | None = None,
) -> SourceChanges:
    rules = Rules(read_archive_file(None).naming, settle, settle or timedelta(minutes=2), tables or {})
    return plan_changes(listed, rows or {}, NOW, rules)


def recorded(state: SourceState, version: str = "v1", seconds_ago: float = 60, reason: str | None = None) -> SourceSnapshot:
    return SourceSnapshot(version, state, NOW - timedelta(seconds=seconds_ago), reason)


def missing(state: SourceState, seconds: float, reason: str | None = None) -> SourceSnapshot:
    return SourceSnapshot("v1", state, NOW - timedelta(minutes=1), reason, NOW - timedelta(seconds=seconds))


def drop(tif: str = "t1", redropped: float = 0, **sidecars: str) -> DroppedFile:
    """A drop of a tif and sidecars in the versions given; `redropped`: seconds after the first drop of the sidecars."""
    parts = [StoredObject(TIF, 9, tif, NOW)]
    later = NOW + timedelta(seconds=redropped)
    parts += [StoredObject(TIF.replace(".tif", f".{suffix}"), 9, version, later) for suffix, version in sidecars.items()]
    (dropped,) = pair_sidecars(parts)
    return dropped


def follow(*steps: tuple[DroppedFile, SourceState], settle: timedelta = timedelta(0)) -> set[str]:
    """The sidecars with a later generation than their tif, after each drop was recorded and then had the state."""
    row: SourceSnapshot | None = None
    for dropped, state in steps:
        for change in plan([dropped], {TIF: row} if row else {}, settle).rows:
            row = SourceSnapshot(dropped.version, change.state, NOW, None, None, dropped.sidecars, change.arrivals)
        assert row
        row = replace(row, state=state)
    assert row
    arrivals = row.arrivals or {TIF: ("", 0, "")}
    return {key.rpartition(".")[2] for key, arrival in arrivals.items() if arrival[1] > arrivals[TIF][1]}


DONE, FAILED, QUEUED, DELETED = SourceState.DONE, SourceState.FAILED, SourceState.QUEUED, SourceState.DELETED


@pytest.mark.parametrize(
    ("steps", "late"),
    [
        ([(drop(tfw="1"), DONE)], set()),
        ([(drop(), DONE), (drop(tfw="1"), DONE)], {"tfw"}),
        ([(drop(), FAILED), (drop(tfw="1"), DONE)], {"tfw"}),
        ([(drop(), QUEUED), (drop(tfw="1"), DONE)], set()),
        ([(drop(tfw="1"), DONE), (drop(tfw="2"), DONE)], {"tfw"}),
        ([(drop(tfw="1"), DONE), (drop("t2", tfw="2"), DONE)], set()),
        ([(drop(), DONE), (drop(tfw="1"), DONE), (drop(tfw="1", prj="1"), DONE)], {"tfw", "prj"}),
        ([(drop(), DONE), (drop(tfw="1"), QUEUED), (drop(tfw="1", prj="1"), DONE)], {"tfw", "prj"}),
        ([(drop(tfw="1", prj="1"), DONE), (drop(tfw="1", prj="2"), DONE)], {"prj"}),
        ([(drop(), DONE), (drop(tfw="1"), DONE), (drop("t2", tfw="1"), FAILED)], set()),
        ([(drop(), DONE), (drop(tfw="1"), DONE), (drop("t2", tfw="1"), FAILED), (drop("t2", tfw="2"), DONE)], {"tfw"}),
        ([(drop(), DONE), (drop(tfw="1"), DELETED), (drop(tfw="1"), DONE)], set()),
        # S3 gives equal bytes the same version; s3fs writes an object twice within seconds.
        ([(drop(tfw="1"), FAILED), (drop(tfw="1", redropped=60), DONE)], {"tfw"}),
        ([(drop(tfw="1"), FAILED), (drop(tfw="1", redropped=2), DONE)], set()),
        ([(drop(tfw="1"), DONE), (drop(tfw="1", redropped=60), DONE)], set()),
    ],
)
@pytest.mark.parametrize("settle", [timedelta(0), SETTLE])
def test_sidecar_is_a_correction_when_it_follows_a_processed_version(
    steps: list[tuple[DroppedFile, SourceState]], late: set[str], settle: timedelta
) -> None:
    assert follow(*steps, settle=settle) == late


@pytest.mark.parametrize(
    ("before", "now", "late"),
    [
        (drop(), drop(tfw="1", redropped=60), {"tfw"}),
        (drop(tfw="1"), drop(tfw="2", redropped=60), {"tfw"}),
        (drop(), drop(tfw="1", redropped=-60), set()),
        (drop(tfw="1", prj="1"), drop(tfw="2", prj="1"), set()),
        (drop(tfw="1"), drop("t2", tfw="1", redropped=60), set()),
    ],
)
def test_corrections_of_rows_without_arrivals(before: DroppedFile, now: DroppedFile, late: set[str]) -> None:
    """A .points file of years ago, which the earlier version ignored, moved a good frame at the first scan after the upgrade."""
    row = SourceSnapshot(before.version, DONE, NOW, sidecars=before.sidecars)
    (change,) = plan([now], {TIF: row}).rows
    generations = {key: arrival[1] for key, arrival in change.arrivals.items()}
    assert {key.rpartition(".")[2] for key, generation in generations.items() if generation > generations[TIF]} == late


def test_old_sidecar_beside_a_tif_that_had_none_is_a_correction() -> None:
    """A copy with the time of its original counted as older than the frame, though no sidecar had been there."""
    row = SourceSnapshot(drop().version, DONE, NOW, arrivals={})
    (change,) = plan([drop(tfw="1", redropped=-60)], {TIF: row}).rows
    generations = {key: arrival[1] for key, arrival in change.arrivals.items()}
    assert generations == {TIF: 0, TIF.replace(".tif", ".tfw"): 1}


def test_same_sidecar_dropped_again_queues_a_failed_frame_of_an_earlier_version() -> None:
    """On S3 the advice to drop the world file again did nothing for frames that had failed before the upgrade."""
    dropped = drop(tfw="1", redropped=60)
    row = SourceSnapshot(dropped.version, FAILED, NOW, "unclear", None, dropped.sidecars)
    (change,) = plan([dropped], {TIF: row}, timedelta(0)).rows
    assert (change.state, {arrival[1] for arrival in change.arrivals.values()}) == (QUEUED, {0, 1})
    assert change.arrivals[TIF][1] == 0
    assert states(plan([drop(tfw="1")], {TIF: row}, timedelta(0))) == {}


def test_sidecar_that_is_dropped_again_with_the_same_content_queues_a_failed_frame() -> None:
    """On S3 nothing happened, because the version of an object is a hash of its bytes."""
    (first,) = plan([drop(tfw="1")], settle=timedelta(0)).rows
    row = SourceSnapshot(first.dropped.version, FAILED, NOW, "unclear", None, first.dropped.sidecars, first.arrivals)
    assert states(plan([drop(tfw="1", redropped=60)], {TIF: row}, timedelta(0))) == {TIF: QUEUED}
    assert states(plan([drop(tfw="1")], {TIF: row}, timedelta(0))) == {}


def states(changes: SourceChanges) -> dict[str, SourceState]:
    return {change.dropped.key: change.state for change in changes.rows}


def test_new_file_in_a_folder_settles_first() -> None:
    assert states(plan([DroppedFile(TIF, "v1", 9)])) == {TIF: SourceState.SETTLING}


def test_new_object_on_s3_is_queued_at_once() -> None:
    assert states(plan([DroppedFile(TIF, "v1", 9)], settle=timedelta(0))) == {TIF: SourceState.QUEUED}


@pytest.mark.parametrize(("seconds_ago", "expected"), [(1, {}), (4, {TIF: SourceState.QUEUED})])
def test_unchanged_file_is_queued_after_the_settle_time(seconds_ago: float, expected: dict[str, SourceState]) -> None:
    assert states(plan([DroppedFile(TIF, "v1", 9)], {TIF: recorded(SourceState.SETTLING, seconds_ago=seconds_ago)})) == expected


@pytest.mark.parametrize("before", [{}, {TIF: recorded(SourceState.SETTLING, seconds_ago=0.1)}])
def test_finished_file_is_queued_without_the_settle_time(before: dict[str, SourceSnapshot]) -> None:
    """A file that was renamed into the folder waited as long as one that is still being written."""
    dropped = DroppedFile(TIF, "v1", 9, finished_at=NOW - timedelta(seconds=2))
    assert states(plan([dropped], before)) == {TIF: SourceState.QUEUED}


@pytest.mark.parametrize(
    "dropped",
    [
        DroppedFile(TIF, "v1", 9, finished_at=NOW - timedelta(seconds=0.5)),
        DroppedFile(TIF, "v1", 9, finished_at=NOW + timedelta(hours=1)),
        DroppedFile(TIF, "v1", 0, empty=True, finished_at=NOW - timedelta(minutes=1)),
    ],
)
def test_file_that_may_not_be_finished_settles(dropped: DroppedFile) -> None:
    """Attributes set before the content, a clock of a file server that is ahead, a file without bytes."""
    assert states(plan([dropped])) == {TIF: SourceState.SETTLING}


def test_drop_is_finished_when_all_its_files_are() -> None:
    times = {"tif": NOW - timedelta(minutes=1), "tfw": NOW}
    parts = {suffix: StoredObject(f"{FOLDER}/a.{suffix}", 5, "1", NOW, time) for suffix, time in times.items()}
    assert [drop.finished_at for drop in pair_sidecars(parts.values())] == [NOW]
    unfinished = StoredObject(f"{FOLDER}/a.tfw", 5, "1", NOW)
    assert [drop.finished_at for drop in pair_sidecars([parts["tif"], unfinished])] == [None]


def test_growing_file_keeps_settling() -> None:
    assert states(plan([DroppedFile(TIF, "v2", 10)], {TIF: recorded(SourceState.SETTLING)})) == {TIF: SourceState.SETTLING}


@pytest.mark.parametrize("state", [SourceState.QUEUED, SourceState.REQUESTED, SourceState.DONE, SourceState.FAILED])
def test_same_version_causes_no_change(state: SourceState) -> None:
    changes = plan([DroppedFile(TIF, "v1", 9)], {TIF: recorded(state)})
    assert (changes.rows, changes.gone) == ([], [])


@pytest.mark.parametrize("state", [SourceState.QUEUED, SourceState.REQUESTED, SourceState.DONE, SourceState.FAILED])
def test_new_version_is_accepted_in_every_state(state: SourceState) -> None:
    assert states(plan([DroppedFile(TIF, "v2", 9)], {TIF: recorded(state)})) == {TIF: SourceState.SETTLING}


def test_deleted_file_that_reappears_is_new_again() -> None:
    assert states(plan([DroppedFile(TIF, "v1", 9)], {TIF: recorded(SourceState.DELETED)})) == {TIF: SourceState.SETTLING}


def test_unlisted_object_is_missing_first_and_gone_in_the_next_scan() -> None:
    """Missing is only a mark: how much of a collection is missing is known once the scan has passed it."""
    first = plan([], {TIF: recorded(SourceState.DONE)}, settle=timedelta(0))
    assert (first.missing, first.gone) == ([TIF], [])
    second = plan([], {TIF: missing(SourceState.DONE, 0)}, settle=timedelta(0))
    assert (second.missing, second.gone) == ([], [TIF])
    deleted = plan([], {TIF: recorded(SourceState.DELETED)}, settle=timedelta(0))
    assert (deleted.missing, deleted.gone) == ([], [])


def test_file_deleted_and_copied_again_stays_on_the_map() -> None:
    """Staff replaced a file by deleting it first, and the frame left the map until it was made again."""
    just_missing = {TIF: missing(SourceState.DONE, 1)}
    assert (plan([], just_missing).missing, plan([], just_missing).gone) == ([], [])
    assert plan([DroppedFile(TIF, "v1", 9)], just_missing).returned == [TIF]


def test_file_that_stays_missing_is_gone() -> None:
    assert plan([], {TIF: missing(SourceState.DONE, 4)}).gone == [TIF]


def test_rejected_file_that_returns_is_no_longer_missing() -> None:
    """The mark stayed, so the next time the file was missing for a moment it counted as deleted at once."""
    bad = f"{FOLDER}/scan0001.tif"
    rejection = plan([DroppedFile(bad, "v1", 9)]).rows[0].reason
    assert plan([DroppedFile(bad, "v1", 9)], {bad: missing(SourceState.REJECTED, 1, rejection)}).returned == [bad]


def test_empty_object_on_s3_waits_for_its_content() -> None:
    """s3fs puts an empty object first: it was rejected as empty while the tif was still being uploaded."""
    empty = DroppedFile(TIF, "v1", 0, empty=True)
    assert states(plan([empty], settle=timedelta(0))) == {TIF: SourceState.SETTLING}
    assert states(plan([empty], {TIF: recorded(SourceState.SETTLING, seconds_ago=60)}, settle=timedelta(0))) == {}
    assert states(plan([empty], {TIF: recorded(SourceState.SETTLING, seconds_ago=130)}, settle=timedelta(0))) == {
        TIF: SourceState.QUEUED
    }
    full = plan([DroppedFile(TIF, "v2", 9)], {TIF: recorded(SourceState.SETTLING, seconds_ago=1)}, settle=timedelta(0))
    assert states(full) == {TIF: SourceState.QUEUED}


def test_bad_name_is_rejected_once_and_does_not_block_others() -> None:
    bad = f"{FOLDER}/scan0001.tif"
    changes = plan([DroppedFile(bad, "v1", 9), DroppedFile(TIF, "v1", 9)])
    assert states(changes) == {bad: SourceState.REJECTED, TIF: SourceState.SETTLING}
    rejection = next(change.reason for change in changes.rows if change.dropped.key == bad)
    assert states(plan([DroppedFile(bad, "v1", 9)], {bad: recorded(SourceState.REJECTED, reason=rejection)})) == {}


def test_rejection_that_no_longer_applies_is_lifted() -> None:
    """A county was missing from the list of shards; after it was added, its frames stayed rejected."""
    assert states(plan([DroppedFile(TIF, "v1", 9)], {TIF: recorded(SourceState.REJECTED, reason="no county")})) == {
        TIF: SourceState.SETTLING
    }


def test_second_tif_of_a_product_is_rejected_with_the_name_of_the_first() -> None:
    upper = TIF.replace(".tif", ".TIF")
    changes = plan([DroppedFile(upper, "v1", 9), DroppedFile(TIF, "v1", 9)], {TIF: recorded(SourceState.DONE)})
    assert states(changes) == {upper: SourceState.REJECTED}
    assert "02-08-60_6-107.tif with the same name is already there" in str(changes.rows[0].reason)


def test_one_of_two_new_tifs_of_a_product_is_accepted() -> None:
    upper = TIF.replace(".tif", ".TIF")
    assert sorted(states(plan([DroppedFile(TIF, "v1", 9), DroppedFile(upper, "v1", 9)])).values()) == ["rejected", "settling"]


def test_collection_that_differs_only_in_case_is_rejected() -> None:
    other = TIF.replace("USDA_1958", "usda_1958")
    changes = plan([DroppedFile(other, "v1", 9)], tables={"travis_usda_1958_frames": "Travis_USDA_1958_frames"})
    assert states(changes) == {other: SourceState.REJECTED}
    assert "Travis_USDA_1958_frames" in str(changes.rows[0].reason)


def test_two_spellings_of_a_collection_do_not_stop_the_scan() -> None:
    """Both spellings were new in one scan; the second violated the unique table name, and no county was scanned."""
    keys = [TIF, TIF.replace("USDA_1958", "usda_1958")]
    assert sorted(states(plan([DroppedFile(key, "v1", 9) for key in keys])).values()) == ["rejected", "settling"]


def test_picture_in_another_format_is_rejected_with_advice() -> None:
    changes = plan([DroppedFile(TIF.replace(".tif", ".jpg"), "v1", 9)])
    assert "export it as 02-08-60_6-107.tif" in str(changes.rows[0].reason)


def stored(key: str, version: str = "1") -> StoredObject:
    return StoredObject(key, 5, version, NOW)


def test_changed_sidecar_is_a_new_version_of_its_tif() -> None:
    tif, world = stored(TIF), TIF.replace(".tif", ".tfw")
    before, after = (pair_sidecars([tif, stored(world, version)])[0] for version in "12")
    assert before.version != after.version != tif.version
    assert before.sidecars == (world,)
    assert combined_version(tif, []) == "1"


def test_empty_sidecar_makes_its_tif_wait() -> None:
    world = StoredObject(TIF.replace(".tif", ".tfw"), 0, "1", NOW)
    assert [dropped.empty for dropped in (*pair_sidecars([stored(TIF), world]), *pair_sidecars([stored(TIF)]))] == [True, False]


def test_sidecars_without_a_tif_are_left_out() -> None:
    assert pair_sidecars([stored(TIF.replace(".tif", ".tfw"))]) == []


def test_sidecars_of_another_folder_are_not_paired() -> None:
    other = TIF.replace("USDA_1958", "USDA_1959").replace(".tif", ".tfw")
    assert pair_sidecars([stored(TIF), stored(other)])[0].sidecars == ()
