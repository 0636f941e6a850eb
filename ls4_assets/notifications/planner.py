"""Which notifications are due: a pure function of the current incidents, those reported before, and the time.

An incident is one kind of problem in one scope, for any number of files: five hundred rejected files of a drop are one incident.
It is reported when it opens, again if it grows later, and once when it is resolved. Reading and recording belong in dispatch.py,
texts in messages.py.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import chain


class IncidentKind(StrEnum):
    """What is wrong.

    rejected: invalid file names. failed: invalid file contents. rebuild: index and map of a collection cannot be rebuilt.
    run: any other run failed. waiting: a collection has made no progress for a long time. held: deletions wait for confirmation.
    unlisted: scans cannot list a folder.
    """

    REJECTED = "rejected"
    FAILED = "failed"
    REBUILD = "rebuild"
    RUN = "run"
    WAITING = "waiting"
    HELD = "held"
    UNLISTED = "unlisted"


class Transition(StrEnum):
    """The change of an incident that a notification reports."""

    OPENED = "opened"
    GREW = "grew"
    RESOLVED = "resolved"


# Kinds whose incidents consist of single files. Only these can grow.
_GROWING_KINDS = (IncidentKind.REJECTED, IncidentKind.FAILED)
# An incident that keeps growing is reported after this many times the group wait.
_MAX_GROUP_WAITS = 10
# More incidents of one kind and transition than this become one notification that lists the scopes.
MAX_SEPARATE = 3

IncidentKey = tuple[IncidentKind, str]


@dataclass(frozen=True)
class Incident:
    """A problem and its extent. `scope` is a collection, a folder, or the target of a run; `count` is in files or frames.

    `since` and `latest` are the times of its first and its newest file. In a notification about growth, `since` is the newest
    time that was already reported. `reason` is for people, and empty for incidents of single files; `run` is the id of the failed
    run.
    """

    kind: IncidentKind
    scope: str
    count: int
    since: datetime
    latest: datetime
    reason: str = ""
    run: str = ""

    @property
    def key(self) -> IncidentKey:
        return self.kind, self.scope


@dataclass(frozen=True)
class Notified:
    """The last notification of an incident. `resolved_at` is the time its resolution was sent, None while it is open."""

    count: int
    latest: datetime
    notified_at: datetime
    resolved_at: datetime | None = None


@dataclass(frozen=True)
class Throttle:
    """`group_wait`: time without a new file before an incident is reported. `repeat_interval`: minimum time between two reports.

    The names are those of Prometheus Alertmanager.
    """

    group_wait: timedelta
    repeat_interval: timedelta


@dataclass(frozen=True)
class Notification:
    """One message to send, about one incident or about several of the same kind."""

    transition: Transition
    kind: IncidentKind
    incidents: tuple[Incident, ...]


def plan_notifications(
    incidents: Sequence[Incident], notified: Mapping[IncidentKey, Notified], now: datetime, throttle: Throttle
) -> list[Notification]:
    """The notifications that are due now, opened incidents first."""
    transitions = chain(_opened_and_grown(incidents, notified, now, throttle), _resolved(incidents, notified))
    groups: dict[tuple[Transition, IncidentKind], list[Incident]] = defaultdict(list)
    for transition, incident in transitions:
        groups[transition, incident.kind].append(incident)
    return [
        notification
        for (transition, kind), group in sorted(groups.items(), key=_urgency)
        for notification in _group_notifications(transition, kind, group)
    ]


def _opened_and_grown(
    incidents: Sequence[Incident], notified: Mapping[IncidentKey, Notified], now: datetime, throttle: Throttle
) -> Iterator[tuple[Transition, Incident]]:
    for incident in incidents:
        last = notified.get(incident.key)
        if last is None:
            if _has_settled(incident, incident.since, now, throttle):
                yield Transition.OPENED, incident
            continue
        has_reopened = last.resolved_at is not None
        has_grown = incident.kind in _GROWING_KINDS and incident.latest > last.latest
        next_report = last.notified_at + throttle.repeat_interval
        if (
            (has_reopened or has_grown)
            and now >= next_report
            and _has_settled(incident, max(incident.since, next_report), now, throttle)
        ):
            yield (Transition.OPENED, incident) if has_reopened else (Transition.GREW, replace(incident, since=last.latest))


def _has_settled(incident: Incident, since: datetime, now: datetime, throttle: Throttle) -> bool:
    return now - incident.latest >= throttle.group_wait or now - since >= _MAX_GROUP_WAITS * throttle.group_wait


def _resolved(incidents: Sequence[Incident], notified: Mapping[IncidentKey, Notified]) -> Iterator[tuple[Transition, Incident]]:
    open_keys = {incident.key for incident in incidents}
    for (kind, scope), last in notified.items():
        if last.resolved_at is None and (kind, scope) not in open_keys:
            yield Transition.RESOLVED, Incident(kind, scope, last.count, last.notified_at, last.latest)


def _group_notifications(transition: Transition, kind: IncidentKind, group: Sequence[Incident]) -> Iterator[Notification]:
    ordered = sorted(group, key=lambda incident: incident.scope)
    if len(ordered) > MAX_SEPARATE:
        yield Notification(transition, kind, tuple(ordered))
    else:
        yield from (Notification(transition, kind, (incident,)) for incident in ordered)


def _urgency(group: tuple[tuple[Transition, IncidentKind], list[Incident]]) -> tuple[int, int]:
    (transition, kind), _ = group
    return list(Transition).index(transition), list(IncidentKind).index(kind)
