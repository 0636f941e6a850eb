"""Which messages are due, decided by a pure function over the troubles of this moment and what was told before.

A trouble is one kind of thing at one place, however many files it concerns: five hundred rejected files of a drop are one. It is
told once, told again only when it grew after a while, and told to be over when it is. What was told stands in Postgres.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import chain


class Kind(StrEnum):
    """What is wrong. rejected: names of files; failed: contents of files; rebuild: index and map of a collection cannot be made;
    run: another run failed; waiting: nothing of a collection has gone on for long; held: deletions wait for the operator."""

    REJECTED = "rejected"
    FAILED = "failed"
    REBUILD = "rebuild"
    RUN = "run"
    WAITING = "waiting"
    HELD = "held"


class Transition(StrEnum):
    """What a message says of a trouble: it is new, it grew, it is over."""

    NEW = "new"
    MORE = "more"
    OVER = "over"


# Kinds of which each file is a matter of its own: only those can grow.
_OF_FILES = (Kind.REJECTED, Kind.FAILED)
# A trouble that keeps growing is told after so many times the settling time.
_PATIENCE = 10
# More messages of one sort than this at once become one that lists the places.
MOST_ALONE = 3

Where = tuple[Kind, str]


@dataclass(frozen=True)
class Incident:
    """`place` is a collection, a folder, or what a run worked on; `count` files or frames are concerned.

    `since`, `latest`: when the first and the newest of it came; in a message that it grew, `since` is up to where it was told.
    `reason` in words, where the trouble is not of single files; `run` is the one that failed.
    """

    kind: Kind
    place: str
    count: int
    since: datetime
    latest: datetime
    reason: str = ""
    run: str = ""

    @property
    def where(self) -> Where:
        return self.kind, self.place


@dataclass(frozen=True)
class Told:
    """What was last told of a trouble; `resolved_at`: and that it is over."""

    count: int
    latest: datetime
    notified_at: datetime
    resolved_at: datetime | None = None


@dataclass(frozen=True)
class Throttle:
    """`settle`: a trouble is told when nothing came to it for so long; `window`: and not again before so long."""

    settle: timedelta
    window: timedelta


@dataclass(frozen=True)
class Message:
    """One message to send, about one trouble or about several of the same kind."""

    news: Transition
    kind: Kind
    troubles: tuple[Incident, ...]


def plan(troubles: Sequence[Incident], told: Mapping[Where, Told], now: datetime, pace: Throttle) -> list[Message]:
    """The messages that are due now, the new troubles first."""
    found = chain(_new_and_grown(troubles, told, now, pace), _over(troubles, told))
    groups: dict[tuple[Transition, Kind], list[Incident]] = defaultdict(list)
    for news, trouble in found:
        groups[news, trouble.kind].append(trouble)
    return [message for (news, kind), group in sorted(groups.items(), key=_urgency) for message in _messages(news, kind, group)]


def _new_and_grown(
    troubles: Sequence[Incident], told: Mapping[Where, Told], now: datetime, pace: Throttle
) -> Iterator[tuple[Transition, Incident]]:
    for trouble in troubles:
        before = told.get(trouble.where)
        if before is None:
            if _has_settled(trouble, trouble.since, now, pace):
                yield Transition.NEW, trouble
            continue
        again = before.resolved_at is not None
        grew = trouble.kind in _OF_FILES and trouble.latest > before.latest
        rested = now - before.notified_at >= pace.window
        if (again or grew) and rested and _has_settled(trouble, max(trouble.since, before.notified_at + pace.window), now, pace):
            yield (Transition.NEW, trouble) if again else (Transition.MORE, replace(trouble, since=before.latest))


def _has_settled(trouble: Incident, since: datetime, now: datetime, pace: Throttle) -> bool:
    return now - trouble.latest >= pace.settle or now - since >= _PATIENCE * pace.settle


def _over(troubles: Sequence[Incident], told: Mapping[Where, Told]) -> Iterator[tuple[Transition, Incident]]:
    there = {trouble.where for trouble in troubles}
    for (kind, place), before in told.items():
        if before.resolved_at is None and (kind, place) not in there:
            yield Transition.OVER, Incident(kind, place, before.count, before.notified_at, before.latest)


def _messages(news: Transition, kind: Kind, group: Sequence[Incident]) -> Iterator[Message]:
    ordered = sorted(group, key=lambda trouble: trouble.place)
    if len(ordered) > MOST_ALONE:
        yield Message(news, kind, tuple(ordered))
    else:
        yield from (Message(news, kind, (trouble,)) for trouble in ordered)


def _urgency(group: tuple[tuple[Transition, Kind], list[Incident]]) -> tuple[int, int]:
    (news, kind), _ = group
    return list(Transition).index(news), list(Kind).index(kind)
