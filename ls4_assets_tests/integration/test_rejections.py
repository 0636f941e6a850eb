"""The history of rejections is exact whoever writes a source's state, and is read as the quarantine list."""

from sqlalchemy import text

from ls4_assets.db.schema import SourceState
from ls4_assets.ingest.sources import requeue
from ls4_assets.notifications.rejections import Rejection, counts, listed
from ls4_assets.operations.status import collect, lines
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, NAME, Intake, intake_fixture, tif  # noqa: F401

BAD_NAME = f"{FOLDER}/scan 1.tif"


def fail(intake: Intake, key: str, reason: str = "It is empty; copy it again.") -> None:
    intake.write("UPDATE ls4.source SET state = 'failed', reason = :reason WHERE key = :key", key=key, reason=reason)


def history(intake: Intake) -> list[Rejection]:
    with intake.archive.database.connect() as connection:
        return listed(connection)


def test_a_file_is_open_until_a_good_version_is_done(intake: Intake) -> None:
    intake.drop(tif(1))
    intake.look(2)
    fail(intake, tif(1))
    (one,) = history(intake)
    assert (one.kind, one.place, one.reason, one.advice) == ("failed", NAME, "It is empty.", "Copy it again.")
    intake.drop(tif(1), data=b"corrected")
    intake.look(2)
    assert intake.states() == {tif(1): "queued"}
    assert history(intake)[0].state == "open"  # it waits, which is no good news yet
    fail(intake, tif(1), "It is black; scan it again.")
    (again,) = history(intake)
    assert (again.times, again.first_seen, again.reason) == (2, one.first_seen, "It is black.")
    assert again.last_seen > one.last_seen
    requeue(intake.archive.database, [SourceState.FAILED], None)
    intake.finish(tif(1))
    assert [(rejection.state, rejection.times) for rejection in history(intake)] == [("taken", 2)]
    fail(intake, tif(1))
    assert [rejection.state for rejection in history(intake)] == ["open", "taken"]


def test_a_wrong_name_is_resolved_when_its_file_is_renamed(intake: Intake) -> None:
    intake.drop(BAD_NAME)
    intake.look(2)
    (one,) = history(intake)
    assert (one.kind, one.place, one.times) == ("rejected", FOLDER.removesuffix("/georef"), 1)
    assert one.advice == "Rename the file." and not one.reason.startswith(FOLDER)
    intake.delete(BAD_NAME)
    intake.drop(tif(1))
    intake.look(3)
    assert [rejection.state for rejection in history(intake)] == ["renamed or removed"]


def test_a_row_that_is_taken_out_leaves_nothing_open(intake: Intake) -> None:
    intake.drop(BAD_NAME)
    intake.look()
    intake.write("DELETE FROM ls4.source")
    assert [rejection.state for rejection in history(intake)] == ["renamed or removed"]


def test_open_ones_come_first_the_newest_before_the_others(intake: Intake) -> None:
    intake.drop(*(tif(number) for number in range(4)))
    intake.look(2)
    for number in range(4):
        fail(intake, tif(number))
    intake.finish(tif(3))
    assert [rejection.key for rejection in history(intake)] == [tif(2), tif(1), tif(0), tif(3)]
    with intake.archive.database.connect() as connection:
        assert [rejection.key for rejection in listed(connection, most=2)] == [tif(2), tif(1)]
        before = counts(connection)
        assert (before.open, before.resolved) == (3, 1)
    fail(intake, tif(0))
    with intake.archive.database.connect() as connection:
        assert counts(connection).stamp != before.stamp


def test_since_when_a_version_waits_outlives_its_runs(intake: Intake) -> None:
    """The times of a source that a run has, or that is tried again, begin anew; what it waits since does not."""
    intake.drop(tif(1))
    intake.look(2)
    query = text("SELECT pending_since, changed_at FROM ls4.source")
    with intake.archive.database.connect() as connection:
        since, changed = connection.execute(query).one()
    intake.claim()
    with intake.archive.database.connect() as connection:
        still, changed_since = connection.execute(query).one()
    assert still == since and changed_since > changed
    intake.finish()
    with intake.archive.database.connect() as connection:
        assert connection.execute(query).one()[0] is None


def test_status_tells_of_the_history(intake: Intake) -> None:
    intake.drop(BAD_NAME, tif(1))
    intake.look(2)
    fail(intake, tif(1))
    intake.finish(tif(1))
    found = collect(intake.archive.settings)
    assert (found.quarantine.open, found.quarantine.resolved) == (1, 1)
    assert "Quarantine: 1 open, 1 resolved" in "\n".join(lines(found))
    assert {entry.key: entry.state for entry in found.quarantine.rejections} == {BAD_NAME: "open", tif(1): "taken"}
