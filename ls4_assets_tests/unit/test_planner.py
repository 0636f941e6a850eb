"""What the planner makes of a listing: every transition of a dropped tif, without storage or database."""

from datetime import UTC, datetime, timedelta

import pytest

from ls4_assets.db.schema import SourceState
from ls4_assets.ingest.listing import Dropped, combined_version, pair_sidecars
from ls4_assets.ingest.planner import Changes, Known, Rules, plan_changes
from ls4_assets.settings import read_shards
from resources.storage import StoredObject

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTLE = timedelta(seconds=3)
FOLDER = "bw/Travis/USDA_1958/frames/georef"
TIF = f"{FOLDER}/02-08-60_6-107.tif"


def plan(
    listed: list[Dropped], known: dict[str, Known] | None = None, settle: timedelta = SETTLE, tables: dict[str, str] | None = None
) -> Changes:
    rules = Rules(read_shards(None), settle, settle or timedelta(minutes=2), tables or {})
    return plan_changes(listed, known or {}, NOW, rules)


def known(state: SourceState, version: str = "v1", seconds_ago: float = 60, reason: str | None = None) -> Known:
    return Known(version, state, NOW - timedelta(seconds=seconds_ago), reason)


def away(state: SourceState, seconds: float, reason: str | None = None) -> Known:
    return Known("v1", state, NOW - timedelta(minutes=1), reason, NOW - timedelta(seconds=seconds))


def states(changes: Changes) -> dict[str, SourceState]:
    return {change.dropped.key: change.state for change in changes.rows}


def test_a_new_file_in_a_folder_settles_first() -> None:
    assert states(plan([Dropped(TIF, "v1", 9)])) == {TIF: SourceState.SETTLING}


def test_a_new_object_on_s3_is_queued_at_once() -> None:
    assert states(plan([Dropped(TIF, "v1", 9)], settle=timedelta(0))) == {TIF: SourceState.QUEUED}


@pytest.mark.parametrize(("seconds_ago", "expected"), [(1, {}), (4, {TIF: SourceState.QUEUED})])
def test_a_file_is_queued_when_it_stayed_the_same_long_enough(seconds_ago: float, expected: dict[str, SourceState]) -> None:
    assert states(plan([Dropped(TIF, "v1", 9)], {TIF: known(SourceState.SETTLING, seconds_ago=seconds_ago)})) == expected


def test_a_file_that_still_grows_goes_on_settling() -> None:
    assert states(plan([Dropped(TIF, "v2", 10)], {TIF: known(SourceState.SETTLING)})) == {TIF: SourceState.SETTLING}


@pytest.mark.parametrize("state", [SourceState.QUEUED, SourceState.REQUESTED, SourceState.DONE, SourceState.FAILED])
def test_the_same_version_is_no_work(state: SourceState) -> None:
    changes = plan([Dropped(TIF, "v1", 9)], {TIF: known(state)})
    assert (changes.rows, changes.gone) == ([], [])


@pytest.mark.parametrize("state", [SourceState.QUEUED, SourceState.REQUESTED, SourceState.DONE, SourceState.FAILED])
def test_a_new_version_is_taken_up_whatever_the_old_one_came_to(state: SourceState) -> None:
    assert states(plan([Dropped(TIF, "v2", 9)], {TIF: known(state)})) == {TIF: SourceState.SETTLING}


def test_a_file_that_reappears_is_new_again() -> None:
    assert states(plan([Dropped(TIF, "v1", 9)], {TIF: known(SourceState.DELETED)})) == {TIF: SourceState.SETTLING}


def test_an_object_that_is_no_longer_listed_is_missing_and_at_the_next_look_gone() -> None:
    """Missing is a mark only: whether much of a collection is, is known when the look is past it."""
    first = plan([], {TIF: known(SourceState.DONE)}, settle=timedelta(0))
    assert (first.missing, first.gone) == ([TIF], [])
    second = plan([], {TIF: away(SourceState.DONE, 0)}, settle=timedelta(0))
    assert (second.missing, second.gone) == ([], [TIF])
    never = plan([], {TIF: known(SourceState.DELETED)}, settle=timedelta(0))
    assert (never.missing, never.gone) == ([], [])


def test_a_file_that_is_deleted_and_copied_again_does_not_leave_the_map() -> None:
    """Staff replaced a file by deleting it first, and the frame was off the map until it was made again."""
    for_a_second = {TIF: away(SourceState.DONE, 1)}
    assert (plan([], for_a_second).missing, plan([], for_a_second).gone) == ([], [])
    assert plan([Dropped(TIF, "v1", 9)], for_a_second).found == [TIF]


def test_a_file_that_stays_away_is_gone() -> None:
    assert plan([], {TIF: away(SourceState.DONE, 4)}).gone == [TIF]


def test_a_rejected_file_that_was_away_for_a_moment_is_found_again() -> None:
    """The mark stayed, and the next time that it was away for a moment it counted as deleted at once."""
    bad = f"{FOLDER}/scan0001.tif"
    rejection = plan([Dropped(bad, "v1", 9)]).rows[0].reason
    assert plan([Dropped(bad, "v1", 9)], {bad: away(SourceState.REJECTED, 1, rejection)}).found == [bad]


def test_an_empty_object_on_s3_waits_for_its_content() -> None:
    """s3fs puts an empty object first: it was called an empty file while the scan was still going up."""
    empty = Dropped(TIF, "v1", 0, empty=True)
    assert states(plan([empty], settle=timedelta(0))) == {TIF: SourceState.SETTLING}
    assert states(plan([empty], {TIF: known(SourceState.SETTLING, seconds_ago=60)}, settle=timedelta(0))) == {}
    assert states(plan([empty], {TIF: known(SourceState.SETTLING, seconds_ago=130)}, settle=timedelta(0))) == {
        TIF: SourceState.QUEUED
    }
    full = plan([Dropped(TIF, "v2", 9)], {TIF: known(SourceState.SETTLING, seconds_ago=1)}, settle=timedelta(0))
    assert states(full) == {TIF: SourceState.QUEUED}


def test_a_bad_name_is_rejected_once_and_does_not_stop_the_others() -> None:
    bad = f"{FOLDER}/scan0001.tif"
    changes = plan([Dropped(bad, "v1", 9), Dropped(TIF, "v1", 9)])
    assert states(changes) == {bad: SourceState.REJECTED, TIF: SourceState.SETTLING}
    rejection = next(change.reason for change in changes.rows if change.dropped.key == bad)
    assert states(plan([Dropped(bad, "v1", 9)], {bad: known(SourceState.REJECTED, reason=rejection)})) == {}


def test_a_rejection_that_no_longer_holds_is_taken_up() -> None:
    """A county was missing in the operator's list of shards; after it was added its frames stayed rejected."""
    assert states(plan([Dropped(TIF, "v1", 9)], {TIF: known(SourceState.REJECTED, reason="no county")})) == {
        TIF: SourceState.SETTLING
    }


def test_of_two_tifs_that_make_one_product_the_second_is_rejected_and_names_the_first() -> None:
    upper = TIF.replace(".tif", ".TIF")
    changes = plan([Dropped(upper, "v1", 9), Dropped(TIF, "v1", 9)], {TIF: known(SourceState.DONE)})
    assert states(changes) == {upper: SourceState.REJECTED}
    assert "02-08-60_6-107.tif of the same name is there already" in str(changes.rows[0].reason)


def test_of_two_new_tifs_that_make_one_product_one_is_taken() -> None:
    upper = TIF.replace(".tif", ".TIF")
    assert sorted(states(plan([Dropped(TIF, "v1", 9), Dropped(upper, "v1", 9)])).values()) == ["rejected", "settling"]


def test_collections_that_differ_by_case_only_would_share_a_table() -> None:
    other = TIF.replace("USDA_1958", "usda_1958")
    changes = plan([Dropped(other, "v1", 9)], tables={"travis_usda_1958_frames": "Travis_USDA_1958_frames"})
    assert states(changes) == {other: SourceState.REJECTED}
    assert "Travis_USDA_1958_frames" in str(changes.rows[0].reason)


def test_two_spellings_of_a_collection_in_one_look_do_not_stop_the_look() -> None:
    """Both spellings were new in the same look; the second broke the table's uniqueness, and no county was looked at."""
    keys = [TIF, TIF.replace("USDA_1958", "usda_1958")]
    assert sorted(states(plan([Dropped(key, "v1", 9) for key in keys])).values()) == ["rejected", "settling"]


def test_a_picture_that_is_no_tif_is_rejected_with_advice() -> None:
    changes = plan([Dropped(TIF.replace(".tif", ".jpg"), "v1", 9)])
    assert "export it as 02-08-60_6-107.tif" in str(changes.rows[0].reason)


def stored(key: str, version: str = "1") -> StoredObject:
    return StoredObject(key, 5, version, NOW)


def test_a_changed_sidecar_is_a_new_version_of_its_tif() -> None:
    tif, world = stored(TIF), TIF.replace(".tif", ".tfw")
    before, after = (pair_sidecars([tif, stored(world, version)])[0] for version in "12")
    assert before.version != after.version != tif.version
    assert before.sidecars == (world,)
    assert combined_version(tif, []) == "1"


def test_a_sidecar_without_bytes_makes_its_tif_wait() -> None:
    world = StoredObject(TIF.replace(".tif", ".tfw"), 0, "1", NOW)
    assert [dropped.empty for dropped in (*pair_sidecars([stored(TIF), world]), *pair_sidecars([stored(TIF)]))] == [True, False]


def test_sidecars_without_a_tif_wait() -> None:
    assert pair_sidecars([stored(TIF.replace(".tif", ".tfw"))]) == []


def test_sidecars_of_another_folder_are_not_mixed_up() -> None:
    other = TIF.replace("USDA_1958", "USDA_1959").replace(".tif", ".tfw")
    assert pair_sidecars([stored(TIF), stored(other)])[0].sidecars == ()
