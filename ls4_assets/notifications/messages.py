"""Messages in the words of those who scan: what happened, to which files, what to do, and where to look.

Nothing here asks a database or sends anything; lists are cut, as five hundred names help nobody.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from ls4_assets.notifications.planner import Incident, Kind, Message, Transition, Where
from ls4_assets.notifications.rejections import Rejection
from ls4_assets.settings import Settings

# Reasons in a message, and file names under each; the staff page has them all.
REASONS, NAMES = 5, 3
# Places in a message about many.
PLACES = 30


@dataclass(frozen=True)
class Text:
    """What is sent."""

    subject: str
    body: str


def compose(message: Message, files: Mapping[Where, Sequence[Rejection]], settings: Settings) -> Text:
    """The message. `files` has, for troubles of files, those that it tells of."""
    if len(message.troubles) > 1:
        return _of_many(message, settings)
    (trouble,) = message.troubles
    if message.news == Transition.OVER:
        return Text(
            f"ls4: resolved: {_RESOLVED[trouble.kind].format(trouble.place)}", _joined(_over(trouble), _links(trouble, settings))
        )
    mine = files.get(trouble.where, ())
    subject = _subject(trouble, len(mine) if message.news == Transition.MORE else trouble.count, message.news)
    return Text(f"ls4: {subject}", _joined(_what(trouble, message.news, mine), _advice(trouble, mine), _links(trouble, settings)))


_RESOLVED = {
    Kind.REJECTED: "file names in {}",
    Kind.FAILED: "photographs of {}",
    Kind.REBUILD: "the map of {}",
    Kind.RUN: "runs over {}",
    Kind.WAITING: "{} goes on",
    Kind.HELD: "deleted photographs of {}",
}


def _subject(trouble: Incident, count: int, news: Transition) -> str:
    more = "more " if news == Transition.MORE else ""
    return {
        Kind.REJECTED: f"{_number(count, f'{more}file')} rejected by name in {trouble.place}",
        Kind.FAILED: f"{_number(count, f'{more}photograph')} of {trouble.place} could not be taken",
        Kind.REBUILD: f"the map of {trouble.place} cannot be brought up to date",
        Kind.RUN: f"a run over {trouble.place} failed",
        Kind.WAITING: f"{_number(count, 'photograph')} of {trouble.place} waiting, and nothing goes on",
        Kind.HELD: f"{_number(count, 'photograph')} of {trouble.place} deleted: is that meant?",
    }[trouble.kind]


def _what(trouble: Incident, news: Transition, files: Sequence[Rejection]) -> str:
    place, more = trouble.place, "more " if news == Transition.MORE else ""
    count = len(files) if more else trouble.count
    some_files, photographs = _number(count, f"{more}file"), _number(count, f"{more}photograph")
    in_all = f" That makes {_number(trouble.count, 'file')} there." if more else ""
    return {
        Kind.REJECTED: f"The archive cannot take the name of {some_files} in {place}. What is named well is not held up.{in_all}",
        Kind.FAILED: f"{photographs} of {place} could not be taken. The others are not held up.{in_all}",
        Kind.REBUILD: f"The tile index or the map of {place} cannot be made. The last good map stays up; what was dropped since "
        "is not on it.",
        Kind.RUN: f"A run over {place} failed. What it had finished stays finished.",
        Kind.WAITING: f"{photographs} of {place} waiting since {trouble.since:%Y-%m-%d %H:%M} UTC; nothing was finished lately.",
        Kind.HELD: f"{photographs} gone from the folder of {place}. Nothing was removed from the map.",
    }[trouble.kind]


def _advice(trouble: Incident, files: Sequence[Rejection]) -> str:
    if trouble.kind in (Kind.REJECTED, Kind.FAILED):
        return _joined(
            *_reasons(files), "Corrected files are taken by themselves, and a message tells when all of this is resolved."
        )
    said = f"What it said: {trouble.reason}" if trouble.reason else ""
    do = {
        Kind.REBUILD: "It is tried again by itself, ever more seldom. Mend what the run says; if there is nothing, report it.",
        Kind.RUN: "Unfinished photographs are given to another run by themselves. A run that a person started has to be started "
        "again, when what it says is mended.",
        Kind.WAITING: "Look whether the Dagster daemon runs (the Dagster UI, Deployment), whether its queue is held up (Runs), and "
        "whether a disk is full.",
    }.get(trouble.kind, "")
    return _joined(said, f"What to do: {do}" if do else "")


def _reasons(files: Sequence[Rejection]) -> list[str]:
    """Each sort of reason once, the most frequent first, with some of its files."""
    sorts = Counter(_sort(one) for one in files)
    text = []
    for sort, count in sorts.most_common(REASONS):
        alike = [one for one in files if _sort(one) == sort]
        names = ", ".join(PurePosixPath(one.key).name for one in alike[:NAMES])
        rest = f" and {count - NAMES} more" if count > NAMES else ""
        text.append(f"{_number(count, 'file')} ({names}{rest}):\n  {alike[0].reason}\n  What to do: {alike[0].advice}")
    if len(sorts) > REASONS:
        text.append(f"and {_number(len(sorts) - REASONS, 'other reason')}.")
    return text


def _sort(one: Rejection) -> str:
    """The reason without what is the file's own: its name and all numbers."""
    name = PurePosixPath(one.key)
    return re.sub(r"\d[\d,.]*", "#", f"{one.reason} {one.advice}".replace(name.name, "").replace(name.stem, ""))


def _over(trouble: Incident) -> str:
    told = f"{trouble.since:%Y-%m-%d %H:%M} UTC"
    return {
        Kind.REJECTED: f"No file in {trouble.place} is rejected by name any more: all were taken, renamed or removed.",
        Kind.FAILED: f"Every photograph of {trouble.place} that could not be taken was taken at last, or removed.",
        Kind.REBUILD: f"The map of {trouble.place} is up to date again.",
        Kind.RUN: f"A later run over {trouble.place} ended well.",
        Kind.WAITING: f"The photographs of {trouble.place} are being worked on again.",
        Kind.HELD: f"The deletions of {trouble.place} wait no longer: they were confirmed, or the files are back.",
    }[trouble.kind] + f" This was told of on {told}; nothing is left to do."


def _of_many(message: Message, settings: Settings) -> Text:
    """Several places at once: a list of them, in place of as many messages."""
    places, over = len(message.troubles), message.news == Transition.OVER
    what = {
        Kind.REJECTED: "files rejected by name",
        Kind.FAILED: "photographs that could not be taken",
        Kind.REBUILD: "maps that cannot be brought up to date",
        Kind.RUN: "failed runs",
        Kind.WAITING: "photographs waiting while nothing goes on",
        Kind.HELD: "deleted photographs that wait for a word",
    }[message.kind]
    subject = f"{'resolved: ' if over else ''}{what} in {places} places"
    head = f"This is resolved; nothing is left to do. It was about {what} in:" if over else f"There are {what} in:"
    lines = [f"  {one.place}: {one.count:,}" for one in message.troubles[:PLACES]]
    if places > PLACES:
        lines.append(f"  and {places - PLACES} more")
    do = "" if over else "What to do: open the list, which says of each what is wrong and how to mend it."
    return Text(f"ls4: {subject}", _joined(head, "\n".join(lines), do, _links(message.troubles[0], settings, places)))


def _links(trouble: Incident, settings: Settings, places: int = 1) -> str:
    """Where to look; what is not configured is left out."""
    of_collection = "/" not in trouble.place and trouble.kind != Kind.RUN
    lines = []
    if settings.staff_url and trouble.kind in (Kind.REJECTED, Kind.FAILED):
        lines.append(f"All rejected files: {settings.staff_url}{'' if places > 1 else f'#find={quote(trouble.place)}'}")
    if of_collection and places == 1:
        lines.append(f"Map: {settings.map_url}/#{trouble.place.lower()}")
    if settings.dagster_url:
        page = "assets/rejected_files" if trouble.kind in (Kind.REJECTED, Kind.FAILED) else "runs"
        lines.append(f"the Dagster UI: {settings.dagster_url}/{f'runs/{trouble.run}' if trouble.run and places == 1 else page}")
    return "\n".join(lines)


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
