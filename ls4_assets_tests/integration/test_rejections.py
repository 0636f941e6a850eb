"""The history of rejections follows every change of a source's state, and is read as the quarantine list."""

from sqlalchemy import text

from ls4_assets.db.schema import SourceState
from ls4_assets.ingest.sources import requeue
from ls4_assets.notifications.rejections import Rejection, count_rejections, list_rejections
from ls4_assets.operations.status import collect
from ls4_assets.operations.status_text import format_status
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, NAME, Ingest, ingest_fixture, tif  # noqa: F401

BAD_NAME = f"{FOLDER}/scan 1.tif"


def fail(ingest: Ingest, key: str, reason: str = "It is empty; copy it again.") -> None:
    ingest.write("UPDATE ls4.source SET state = 'failed', reason = :reason WHERE key = :key", key=key, reason=reason)


def history(ingest: Ingest) -> list[Rejection]:
    with ingest.archive.database.connect() as connection:
        return list_rejections(connection)


def test_file_is_open_until_a_good_version_is_done(ingest: Ingest) -> None:
    ingest.drop(tif(1))
    ingest.scan(2)
    fail(ingest, tif(1))
    (first,) = history(ingest)
    assert (first.kind, first.scope, first.reason, first.advice) == ("failed", NAME, "It is empty.", "Copy it again.")
    ingest.drop(tif(1), data=b"corrected")
    ingest.scan(2)
    assert ingest.states() == {tif(1): "queued"}
    assert history(ingest)[0].state == "open"  # it is queued, not yet accepted
    fail(ingest, tif(1), "It is black; scan it again.")
    (again,) = history(ingest)
    assert (again.occurrences, again.first_seen, again.reason) == (2, first.first_seen, "It is black.")
    assert again.last_seen > first.last_seen
    requeue(ingest.archive.database, [SourceState.FAILED], None)
    ingest.finish(tif(1))
    assert [(rejection.state, rejection.occurrences) for rejection in history(ingest)] == [("taken", 2)]
    fail(ingest, tif(1))
    assert [rejection.state for rejection in history(ingest)] == ["open", "taken"]


def test_invalid_name_is_resolved_when_the_file_is_renamed(ingest: Ingest) -> None:
    ingest.drop(BAD_NAME)
    ingest.scan(2)
    (entry,) = history(ingest)
    assert (entry.kind, entry.scope, entry.occurrences) == ("rejected", FOLDER.removesuffix("/georef"), 1)
    assert entry.advice == "Rename the file." and not entry.reason.startswith(FOLDER)
    ingest.delete(BAD_NAME)
    ingest.drop(tif(1))
    ingest.scan(3)
    assert [rejection.state for rejection in history(ingest)] == ["renamed or removed"]


def test_deleted_row_leaves_nothing_open(ingest: Ingest) -> None:
    ingest.drop(BAD_NAME)
    ingest.scan()
    ingest.write("DELETE FROM ls4.source")
    assert [rejection.state for rejection in history(ingest)] == ["renamed or removed"]


def test_open_files_come_first_and_the_latest_before_older_ones(ingest: Ingest) -> None:
    ingest.drop(*(tif(number) for number in range(4)))
    ingest.scan(2)
    for number in range(4):
        fail(ingest, tif(number))
    ingest.finish(tif(3))
    assert [rejection.key for rejection in history(ingest)] == [tif(2), tif(1), tif(0), tif(3)]
    with ingest.archive.database.connect() as connection:
        assert [rejection.key for rejection in list_rejections(connection, limit=2)] == [tif(2), tif(1)]
        before = count_rejections(connection)
        assert (before.open, before.resolved) == (3, 1)
    fail(ingest, tif(0))
    with ingest.archive.database.connect() as connection:
        assert count_rejections(connection).stamp != before.stamp


def test_pending_since_is_kept_until_the_version_is_done(ingest: Ingest) -> None:
    """`changed_at` changes when a run claims or retries a source; `pending_since` does not."""
    ingest.drop(tif(1))
    ingest.scan(2)
    query = text("SELECT pending_since, changed_at FROM ls4.source")
    with ingest.archive.database.connect() as connection:
        pending_since, changed_at = connection.execute(query).one()
    ingest.claim()
    with ingest.archive.database.connect() as connection:
        pending_since_later, changed_at_later = connection.execute(query).one()
    assert pending_since_later == pending_since and changed_at_later > changed_at
    ingest.finish()
    with ingest.archive.database.connect() as connection:
        assert connection.execute(query).one()[0] is None


def test_status_reports_the_history(ingest: Ingest) -> None:
    ingest.drop(BAD_NAME, tif(1))
    ingest.scan(2)
    fail(ingest, tif(1))
    ingest.finish(tif(1))
    report = collect(ingest.archive.settings)
    assert (report.quarantine.open, report.quarantine.resolved) == (1, 1)
    assert "Rejected files, for name or content: 1 open, 1 resolved" in "\n".join(format_status(report))
    assert {entry.key: entry.state for entry in report.quarantine.rejections} == {BAD_NAME: "open", tif(1): "taken"}
