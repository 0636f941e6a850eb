"""What the planner makes of a listing: every transition of a dropped tif, without storage or database."""

from datetime import UTC, datetime, timedelta

import pytest

from ls4_assets.index.schema import SourceState
from ls4_assets.intake.listing import Dropped, combined_version, pair_sidecars
from ls4_assets.intake.planner import Changes, Known, Rules, plan_changes
from ls4_assets.settings import read_shards
from resources.storage import StoredObject

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTLE = timedelta(seconds=3)
FOLDER = "bw/Travis/USDA_1958/frames/georef"
TIF = f"{FOLDER}/02-08-60_6-107.tif"


def plan(
    listed: list[Dropped], known: dict[str, Known] | None = None, settle: timedelta = SETTLE, tables: dict[str, str] | None = None
) -> Changes:
    return plan_changes(listed, known or {}, NOW, Rules(read_shards(None), settle, tables or {}))


def known(state: SourceState, version: str = "v1", seconds_ago: float = 60, reason: str | None = None) -> Known:
    return Known(version, state, NOW - timedelta(seconds=seconds_ago), reason)


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


def test_an_object_that_is_no_longer_listed_is_gone_once() -> None:
    assert plan([], {TIF: known(SourceState.DONE)}, settle=timedelta(0)).gone == [TIF]
    assert plan([], {TIF: known(SourceState.DELETED)}, settle=timedelta(0)).gone == []


def test_a_file_that_is_deleted_and_copied_again_does_not_leave_the_map() -> None:
    """Staff replaced a file by deleting it first, and the frame was off the map until it was made again."""
    first = plan([], {TIF: known(SourceState.DONE)})
    assert (first.missing, first.gone) == ([TIF], [])
    away = {TIF: Known("v1", SourceState.DONE, NOW, gone_at=NOW - timedelta(seconds=1))}
    assert (plan([], away).missing, plan([], away).gone) == ([], [])
    assert plan([Dropped(TIF, "v1", 9)], away).found == [TIF]


def test_a_file_that_stays_away_is_gone() -> None:
    away = {TIF: Known("v1", SourceState.DONE, NOW, gone_at=NOW - timedelta(seconds=4))}
    assert plan([], away).gone == [TIF]


def test_a_bad_name_is_refused_once_and_does_not_stop_the_others() -> None:
    bad = f"{FOLDER}/scan0001.tif"
    changes = plan([Dropped(bad, "v1", 9), Dropped(TIF, "v1", 9)])
    assert states(changes) == {bad: SourceState.REFUSED, TIF: SourceState.SETTLING}
    refusal = next(change.reason for change in changes.rows if change.dropped.key == bad)
    assert states(plan([Dropped(bad, "v1", 9)], {bad: known(SourceState.REFUSED, reason=refusal)})) == {}


def test_a_refusal_that_no_longer_holds_is_taken_up() -> None:
    """A county was missing in the operator's list of shards; after it was added its frames stayed refused."""
    assert states(plan([Dropped(TIF, "v1", 9)], {TIF: known(SourceState.REFUSED, reason="no county")})) == {
        TIF: SourceState.SETTLING
    }


def test_of_two_tifs_that_make_one_product_the_second_is_refused_and_names_the_first() -> None:
    upper = TIF.replace(".tif", ".TIF")
    changes = plan([Dropped(upper, "v1", 9), Dropped(TIF, "v1", 9)], {TIF: known(SourceState.DONE)})
    assert states(changes) == {upper: SourceState.REFUSED}
    assert "02-08-60_6-107.tif of the same name is there already" in str(changes.rows[0].reason)


def test_of_two_new_tifs_that_make_one_product_one_is_taken() -> None:
    upper = TIF.replace(".tif", ".TIF")
    assert sorted(states(plan([Dropped(TIF, "v1", 9), Dropped(upper, "v1", 9)])).values()) == ["refused", "settling"]


def test_collections_that_differ_by_case_only_would_share_a_table() -> None:
    other = TIF.replace("USDA_1958", "usda_1958")
    changes = plan([Dropped(other, "v1", 9)], tables={"travis_usda_1958_frames": "Travis_USDA_1958_frames"})
    assert states(changes) == {other: SourceState.REFUSED}
    assert "Travis_USDA_1958_frames" in str(changes.rows[0].reason)


def test_two_spellings_of_a_collection_in_one_look_do_not_stop_the_look() -> None:
    """Both spellings were new in the same look; the second broke the table's uniqueness, and no county was looked at."""
    keys = [TIF, TIF.replace("USDA_1958", "usda_1958")]
    assert sorted(states(plan([Dropped(key, "v1", 9) for key in keys])).values()) == ["refused", "settling"]


def test_a_picture_that_is_no_tif_is_refused_with_advice() -> None:
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


def test_sidecars_without_a_tif_wait() -> None:
    assert pair_sidecars([stored(TIF.replace(".tif", ".tfw"))]) == []


def test_sidecars_of_another_folder_are_not_mixed_up() -> None:
    other = TIF.replace("USDA_1958", "USDA_1959").replace(".tif", ".tfw")
    assert pair_sidecars([stored(TIF), stored(other)])[0].sidecars == ()
