"""Which notifications are due, how they are grouped and throttled, and that every text is complete."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from ls4_assets.notifications.messages import compose_message
from ls4_assets.notifications.planner import (
    MAX_SEPARATE,
    Incident,
    IncidentKey,
    IncidentKind,
    Notification,
    Notified,
    Throttle,
    Transition,
    plan_notifications,
)
from ls4_assets.notifications.rejections import split_advice
from ls4_assets.settings import Settings
from resources.notifier import plain_subject

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
THROTTLE = Throttle(group_wait=timedelta(minutes=1), repeat_interval=timedelta(hours=1))
COLLECTION = "Travis_USDA_1958_frames"


def after(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def failed(
    count: int = 1, since: float = 0, latest: float = 0, scope: str = COLLECTION, kind: IncidentKind = IncidentKind.FAILED
) -> Incident:
    return Incident(kind, scope, count, after(since), after(latest))


class Ledger:
    """The notifications sent so far. Every notification is accepted, and recorded the way the platform records it."""

    def __init__(self) -> None:
        self.notified: dict[IncidentKey, Notified] = {}

    def tick(self, minutes: float, *incidents: Incident) -> list[tuple[Transition, int]]:
        due = plan_notifications(incidents, self.notified, after(minutes), THROTTLE)
        for notification in due:
            self.record(notification, after(minutes))
        return [(entry.transition, sum(incident.count for incident in entry.incidents)) for entry in due]

    def record(self, notification: Notification, now: datetime) -> None:
        resolved_at = now if notification.transition == Transition.RESOLVED else None
        self.notified |= {
            incident.key: Notified(incident.count, incident.latest, now, resolved_at) for incident in notification.incidents
        }


def test_growing_drop_is_reported_once_after_the_group_wait() -> None:
    ledger = Ledger()
    assert ledger.tick(0.1, failed(40, latest=0.1)) == []
    assert ledger.tick(0.9, failed(500, latest=0.8)) == []
    assert ledger.tick(1.9, failed(500, latest=0.8)) == [(Transition.OPENED, 500)]
    assert [ledger.tick(minutes, failed(500, latest=0.8)) for minutes in (2, 61, 5000)] == [[], [], []]


def test_drop_that_never_stops_growing_is_reported_after_ten_group_waits() -> None:
    assert Ledger().tick(9, failed(900, latest=8.9)) == []
    assert Ledger().tick(10, failed(1000, latest=9.9)) == [(Transition.OPENED, 1000)]


def test_growth_is_reported_once_in_a_repeat_interval() -> None:
    ledger = Ledger()
    ledger.tick(1, failed(3))
    assert ledger.tick(30, failed(5, latest=20)) == []
    assert ledger.tick(61, failed(5, latest=20)) == [(Transition.GREW, 5)]
    assert ledger.tick(62, failed(5, latest=20)) == []


def test_growth_notification_starts_at_the_last_reported_file() -> None:
    notified = {(IncidentKind.FAILED, COLLECTION): Notified(3, after(0), after(1))}
    (notification,) = plan_notifications([failed(5, latest=20)], notified, after(61), THROTTLE)
    assert notification.incidents[0].since == after(0)


def test_resolution_is_reported_once_and_only_for_a_reported_incident() -> None:
    ledger = Ledger()
    assert (ledger.tick(0, failed(3)), ledger.tick(1)) == ([], [])
    ledger.tick(3, failed(3))
    assert (ledger.tick(4), ledger.tick(5)) == ([(Transition.RESOLVED, 3)], [])


def test_flapping_incident_is_reported_once_in_a_repeat_interval() -> None:
    ledger = Ledger()
    sent: list[tuple[Transition, int]] = []
    for minute in range(1, 60):
        sent += ledger.tick(minute, *([failed(1, since=minute - 2, latest=minute - 2)] if minute % 2 else []))
    assert sent == [(Transition.OPENED, 1), (Transition.RESOLVED, 1)]
    assert ledger.tick(70, failed(1, since=68, latest=68)) == [(Transition.OPENED, 1)]


@pytest.mark.parametrize("kind", [IncidentKind.RUN, IncidentKind.REBUILD, IncidentKind.WAITING, IncidentKind.HELD])
def test_incident_that_is_not_about_files_does_not_grow(kind: IncidentKind) -> None:
    ledger = Ledger()
    ledger.tick(2, failed(1, kind=kind))
    assert ledger.tick(500, failed(1, latest=400, kind=kind)) == []


def many(count: int) -> Sequence[Incident]:
    return [failed(2, scope=f"Travis_USDA_{1900 + number}_frames") for number in range(count)]


def test_incidents_in_many_scopes_are_one_notification() -> None:
    ledger = Ledger()
    assert len(ledger.tick(2, *many(MAX_SEPARATE))) == MAX_SEPARATE
    ledger = Ledger()
    assert ledger.tick(2, *many(40)) == [(Transition.OPENED, 80)]
    assert ledger.tick(3, *many(40)) == []
    assert ledger.tick(4) == [(Transition.RESOLVED, 80)]


@pytest.mark.parametrize(
    ("reason", "error", "advice"),
    [
        ("a.tif is empty (zero bytes); copy it again and drop it.", "A.tif is empty (zero bytes).", "Copy it again and drop it."),
        ("bw/x/a.tif: 'x' is not a county; did you mean y? Rename it.", "'x' is not a county.", "Did you mean y? Rename it."),
        ("its disk is gone.", "Its disk is gone.", "Correct the file and drop it again."),
    ],
)
def test_last_part_of_a_reason_is_the_advice(reason: str, error: str, advice: str) -> None:
    assert split_advice("bw/x/a.tif", reason) == (error, advice)


def test_subject_is_valid_for_sns() -> None:
    assert plain_subject("ls4: fotografía\nñ") == "ls4: fotograf?a ?"
    assert len(plain_subject("x" * 200)) == 100


def test_every_message_has_a_valid_subject_and_a_link() -> None:
    settings = Settings(
        storage="/none", database_url=SecretStr("postgresql+psycopg2://x"), public_url="http://m", map_url="http://m",
        dagster_url="http://d", staff_url="http://m/staff",
    )  # fmt: skip
    for kind in IncidentKind:
        for transition in Transition:
            for incidents in ([failed(1500, kind=kind)], [failed(2, kind=kind, scope=f"{COLLECTION}{n}") for n in range(40)]):
                message = compose_message(Notification(transition, kind, tuple(incidents)), {}, settings)
                assert message.subject.startswith("ls4: ") and plain_subject(message.subject) == message.subject
                assert ("resolved" in message.subject) == (transition == Transition.RESOLVED)
                assert "http://" in message.body and len(message.body) < 3000
                assert "Incident(" not in message.body and "None" not in message.body
