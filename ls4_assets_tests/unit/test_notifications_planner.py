"""Which messages are due: once each, grouped, not again at each look, and one when it is over."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from ls4_assets.notifications.messages import compose
from ls4_assets.notifications.planner import MOST_ALONE, Incident, Kind, Message, Throttle, Told, Transition, Where, plan
from ls4_assets.notifications.rejections import split_advice
from ls4_assets.settings import Settings
from resources.notifier import plain_subject

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PACE = Throttle(settle=timedelta(minutes=1), window=timedelta(hours=1))
PLACE = "Travis_USDA_1958_frames"


def after(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def failed(count: int = 1, since: float = 0, latest: float = 0, place: str = PLACE, kind: Kind = Kind.FAILED) -> Incident:
    return Incident(kind, place, count, after(since), after(latest))


class Ledger:
    """What stays between the looks: each message is accepted, and noted as the platform notes it."""

    def __init__(self) -> None:
        self.told: dict[Where, Told] = {}

    def look(self, minutes: float, *troubles: Incident) -> list[tuple[Transition, int]]:
        due = plan(troubles, self.told, after(minutes), PACE)
        for message in due:
            self.note(message, after(minutes))
        return [(message.news, sum(trouble.count for trouble in message.troubles)) for message in due]

    def note(self, message: Message, now: datetime) -> None:
        over = message.news == Transition.OVER
        self.told |= {one.where: Told(one.count, one.latest, now, now if over else None) for one in message.troubles}


def test_a_drop_that_is_still_coming_is_told_once_when_it_has_settled() -> None:
    ledger = Ledger()
    assert ledger.look(0.1, failed(40, latest=0.1)) == []
    assert ledger.look(0.9, failed(500, latest=0.8)) == []
    assert ledger.look(1.9, failed(500, latest=0.8)) == [(Transition.NEW, 500)]
    assert [ledger.look(minutes, failed(500, latest=0.8)) for minutes in (2, 61, 5000)] == [[], [], []]


def test_a_drop_that_never_settles_is_told_all_the_same() -> None:
    assert Ledger().look(9, failed(900, latest=8.9)) == []
    assert Ledger().look(10, failed(1000, latest=9.9)) == [(Transition.NEW, 1000)]


def test_what_comes_to_a_trouble_later_is_told_once_a_window() -> None:
    ledger = Ledger()
    ledger.look(1, failed(3))
    assert ledger.look(30, failed(5, latest=20)) == []
    assert ledger.look(61, failed(5, latest=20)) == [(Transition.MORE, 5)]
    assert ledger.look(62, failed(5, latest=20)) == []


def test_a_growth_message_says_since_when() -> None:
    told = {(Kind.FAILED, PLACE): Told(3, after(0), after(1))}
    (message,) = plan([failed(5, latest=20)], told, after(61), PACE)
    assert message.troubles[0].since == after(0)


def test_the_end_is_told_once_and_only_when_the_trouble_was() -> None:
    ledger = Ledger()
    assert (ledger.look(0, failed(3)), ledger.look(1)) == ([], [])
    ledger.look(3, failed(3))
    assert (ledger.look(4), ledger.look(5)) == ([(Transition.OVER, 3)], [])


def test_what_comes_and_goes_is_told_once_a_window() -> None:
    ledger = Ledger()
    sent: list[tuple[Transition, int]] = []
    for minute in range(1, 60):
        sent += ledger.look(minute, *([failed(1, since=minute - 2, latest=minute - 2)] if minute % 2 else []))
    assert sent == [(Transition.NEW, 1), (Transition.OVER, 1)]
    assert ledger.look(70, failed(1, since=68, latest=68)) == [(Transition.NEW, 1)]


@pytest.mark.parametrize("kind", [Kind.RUN, Kind.REBUILD, Kind.WAITING, Kind.HELD])
def test_a_run_that_fails_again_and_again_is_told_once(kind: Kind) -> None:
    ledger = Ledger()
    ledger.look(2, failed(1, kind=kind))
    assert ledger.look(500, failed(1, latest=400, kind=kind)) == []


def many(count: int) -> Sequence[Incident]:
    return [failed(2, place=f"Travis_USDA_{1900 + number}_frames") for number in range(count)]


def test_trouble_at_many_places_is_one_message() -> None:
    ledger = Ledger()
    assert len(ledger.look(2, *many(MOST_ALONE))) == MOST_ALONE
    ledger = Ledger()
    assert ledger.look(2, *many(40)) == [(Transition.NEW, 80)]
    assert ledger.look(3, *many(40)) == []
    assert ledger.look(4) == [(Transition.OVER, 80)]


@pytest.mark.parametrize(
    ("reason", "wrong", "advice"),
    [
        ("a.tif is empty (zero bytes); copy it again and drop it.", "A.tif is empty (zero bytes).", "Copy it again and drop it."),
        ("bw/x/a.tif: 'x' is no county; did you mean y? Rename it.", "'x' is no county.", "Did you mean y? Rename it."),
        ("its disk is gone.", "Its disk is gone.", "Correct the file and drop it again."),
    ],
)
def test_the_last_part_of_a_reason_is_the_advice(reason: str, wrong: str, advice: str) -> None:
    assert split_advice("bw/x/a.tif", reason) == (wrong, advice)


def test_a_subject_is_what_sns_takes() -> None:
    assert plain_subject("ls4: fotografía\nñ") == "ls4: fotograf?a ?"
    assert len(plain_subject("x" * 200)) == 100


def test_every_message_fits_its_subject_and_says_where_to_look() -> None:
    settings = Settings(
        storage="/none", database_url=SecretStr("postgresql+psycopg2://x"), public_url="http://m", map_url="http://m",
        dagster_url="http://d", staff_url="http://m/staff",
    )  # fmt: skip
    for kind in Kind:
        for news in Transition:
            for troubles in ([failed(1500, kind=kind)], [failed(2, kind=kind, place=f"{PLACE}{n}") for n in range(40)]):
                text = compose(Message(news, kind, tuple(troubles)), {}, settings)
                assert text.subject.startswith("ls4: ") and plain_subject(text.subject) == text.subject
                assert ("resolved" in text.subject) == (news == Transition.OVER)
                assert "http://" in text.body and len(text.body) < 3000
                assert "Trouble(" not in text.body and "None" not in text.body
