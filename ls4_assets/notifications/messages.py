"""Texts of notifications, for scanning staff and operators: what happened, to which files, what to do, and where to read more.

Nothing here reads the database or sends anything. Lists are truncated: five hundred file names help no reader.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import quote

from ls4_assets.domain.printable import printable
from ls4_assets.notifications.planner import Incident, IncidentKey, IncidentKind, Notification, Transition
from ls4_assets.notifications.rejections import Rejection
from ls4_assets.settings import AddressSettings

# Maximum reasons in a message, and file names under each; the quarantine page lists all.
MAX_REASONS, MAX_NAMES = 5, 3
# Maximum scopes in a message about several incidents.
MAX_SCOPES = 30


@dataclass(frozen=True)
class MessageText:
    """Subject and body, plain text."""

    subject: str
    body: str


def compose_message(
    notification: Notification, files: Mapping[IncidentKey, Sequence[Rejection]], settings: AddressSettings
) -> MessageText:
    """The text of a notification. `files` has the files to list for each incident of single files."""
    # A folder may have any name.
    shown = tuple(replace(each, scope=printable(each.scope)) for each in notification.incidents)
    files = {(kind, printable(scope)): listed for (kind, scope), listed in files.items()}
    notification = replace(notification, incidents=shown)
    if len(notification.incidents) > 1:
        return _compose_digest(notification, settings)
    (incident,) = notification.incidents
    links = _links(incident, settings)
    if notification.transition == Transition.RESOLVED:
        subject = f"ls4: resolved: {_RESOLVED_SUBJECTS[incident.kind].format(incident.scope)}"
        return MessageText(subject, _join_paragraphs(_resolution(incident), links))
    listed = files.get(incident.key, ())
    has_grown = notification.transition == Transition.GREW
    count = len(listed) if has_grown else incident.count
    advice = _advice(incident, listed, settings.staff_url)
    body = _join_paragraphs(_summary(incident, count, has_grown), advice, links)
    return MessageText(f"ls4: {_subject(incident, count, has_grown)}", body)


_RESOLVED_SUBJECTS = {
    IncidentKind.REJECTED: "file names in {}",
    IncidentKind.FAILED: "photographs of {}",
    IncidentKind.REBUILD: "the map of {}",
    IncidentKind.RUN: "runs for {}",
    IncidentKind.WAITING: "waiting photographs of {}",
    IncidentKind.HELD: "deleted photographs of {}",
    IncidentKind.UNLISTED: "scans of {}",
}


def _subject(incident: Incident, count: int, has_grown: bool) -> str:
    scope, more = incident.scope, "more " if has_grown else ""
    return {
        IncidentKind.REJECTED: f"{_number(count, f'{more}file')} with invalid names in {scope}",
        IncidentKind.FAILED: f"{_number(count, f'{more}photograph')} of {scope} could not be processed",
        IncidentKind.REBUILD: f"the map of {scope} cannot be updated",
        IncidentKind.RUN: f"a run for {scope} failed",
        IncidentKind.WAITING: f"{_number(count, 'photograph')} of {scope} waiting without progress",
        IncidentKind.HELD: f"{_number(count, 'photograph')} of {scope} deleted: is this intended?",
        IncidentKind.UNLISTED: f"new photographs in {scope} are not processed",
    }[incident.kind]


def _summary(incident: Incident, count: int, has_grown: bool) -> str:
    scope, more = incident.scope, "more " if has_grown else ""
    files, photographs = _number(count, f"{more}file"), _number(count, f"{more}photograph")
    total = f" The total is now {_number(incident.count, 'file')}." if has_grown else ""
    return {
        IncidentKind.REJECTED: f"The archive rejected the names of {files} in {scope}. Files with valid names are not "
        f"affected.{total}",
        IncidentKind.FAILED: f"{photographs} of {scope} could not be processed. The other photographs are not affected.{total}",
        IncidentKind.REBUILD: f"The tile index or the map of {scope} cannot be rebuilt. The last good map stays online, "
        "without the files that were dropped since then.",
        IncidentKind.RUN: f"A run for {scope} failed. The results that it had finished are kept.",
        IncidentKind.WAITING: f"{photographs} of {scope} {'has' if count == 1 else 'have'} been waiting since "
        f"{incident.since:%Y-%m-%d %H:%M} UTC. No photograph of the collection was finished recently.",
        IncidentKind.HELD: f"{photographs} disappeared from the folder of {scope}. Nothing was removed from the map.",
        IncidentKind.UNLISTED: f"Scans have failed in {scope} since {incident.since:%Y-%m-%d %H:%M} UTC. Nothing in it is "
        "processed; what is on the map stays there.",
    }[incident.kind]


def _advice(incident: Incident, files: Sequence[Rejection], staff_url: str) -> str:
    if incident.kind in (IncidentKind.REJECTED, IncidentKind.FAILED):
        return _join_paragraphs(
            *_reasons(files, staff_url),
            "Corrected files are processed automatically. You get another message when all of these files are resolved.",
        )
    # The reason for held deletions or an unlisted folder is a complete message with its own advice.
    prefix = "" if incident.kind in (IncidentKind.HELD, IncidentKind.UNLISTED) else "Reason: "
    reason = f"{prefix}{incident.reason}" if incident.reason else ""
    advice = {
        IncidentKind.REBUILD: "Fix the error that the run reports; if it reports none, report this problem. The rebuild is "
        "retried automatically, at increasing intervals.",
        IncidentKind.RUN: "Fix the error above. Unfinished photographs are assigned to another run automatically; a run that "
        "a person started must be started again.",
        IncidentKind.WAITING: "Check that the Dagster daemon is running (Dagster UI, Deployment), that its queue is not blocked "
        "(Runs), and that no disk is full.",
    }.get(incident.kind, "")
    return _join_paragraphs(reason, f"What to do: {advice}" if advice else "")


def _reasons(files: Sequence[Rejection], staff_url: str) -> list[str]:
    """Each type of reason once, the most frequent first, with some of its files, and the staff page's link to each of them."""
    types = Counter(_reason_type(file) for file in files)
    paragraphs = []
    for reason_type, count in types.most_common(MAX_REASONS):
        similar = [file for file in files if _reason_type(file) == reason_type]
        names = ", ".join(PurePosixPath(file.key).name for file in similar[:MAX_NAMES])
        rest = f" and {count - MAX_NAMES} more" if count > MAX_NAMES else ""
        text = f"{_number(count, 'file')} ({names}{rest}):\n  {similar[0].reason}\n  What to do: {similar[0].advice}"
        pages = [f"  {file_link(staff_url, file.key)}" for file in similar[:MAX_NAMES]] if staff_url else []
        paragraphs.append("\n".join([text, *pages]))
    if len(types) > MAX_REASONS:
        paragraphs.append(f"and {_number(len(types) - MAX_REASONS, 'other reason')}.")
    return paragraphs


def file_link(staff_url: str, key: str) -> str:
    """The address of one file on the staff page. It stays the same when the file is corrected or removed."""
    return f"{staff_url}#file={quote(key)}"


def _reason_type(file: Rejection) -> str:
    """The reason without the parts that differ between files: the file name and all numbers."""
    path = PurePosixPath(file.key)
    return re.sub(r"[0-9][0-9,.]*", "#", f"{file.reason} {file.advice}".replace(path.name, "").replace(path.stem, ""))


def _resolution(incident: Incident) -> str:
    scope = incident.scope
    return {
        IncidentKind.REJECTED: f"All files with invalid names in {scope} were accepted, renamed or removed.",
        IncidentKind.FAILED: f"All photographs of {scope} that could not be processed are now processed, or were removed.",
        IncidentKind.REBUILD: f"The map of {scope} is up to date again.",
        IncidentKind.RUN: f"A later run for {scope} succeeded.",
        IncidentKind.WAITING: f"The photographs of {scope} are being processed again.",
        IncidentKind.HELD: f"The deletions of {scope} were confirmed, or the files were restored.",
        IncidentKind.UNLISTED: f"Scans of {scope} succeed again.",
    }[incident.kind] + f" Last reported on {incident.since:%Y-%m-%d %H:%M} UTC; no action is needed."


def _compose_digest(notification: Notification, settings: AddressSettings) -> MessageText:
    """One message with a list of scopes, instead of one message for each."""
    count, is_resolved = len(notification.incidents), notification.transition == Transition.RESOLVED
    what = {
        IncidentKind.REJECTED: "files with invalid names",
        IncidentKind.FAILED: "photographs that could not be processed",
        IncidentKind.REBUILD: "maps that cannot be updated",
        IncidentKind.RUN: "failed runs",
        IncidentKind.WAITING: "photographs waiting without progress",
        IncidentKind.HELD: "deleted photographs that need confirmation",
        IncidentKind.UNLISTED: "folders that scans cannot list",
    }[notification.kind]
    subject = f"{'resolved: ' if is_resolved else ''}{what} in {count} places"
    head = f"This is resolved; no action is needed. It was about {what} in:" if is_resolved else f"There are {what} in:"
    lines = [f"  {incident.scope}: {incident.count:,}" for incident in notification.incidents[:MAX_SCOPES]]
    if count > MAX_SCOPES:
        lines.append(f"  and {count - MAX_SCOPES} more")
    advice = "" if is_resolved else "What to do: open the list below; it gives the reason and the fix for each item."
    links = _links(notification.incidents[0], settings, count)
    return MessageText(f"ls4: {subject}", _join_paragraphs(head, "\n".join(lines), advice, links))


def _links(incident: Incident, settings: AddressSettings, count: int = 1) -> str:
    """Addresses of the pages about `count` incidents like this one; addresses that are not configured are omitted."""
    is_of_files = incident.kind in (IncidentKind.REJECTED, IncidentKind.FAILED)
    is_of_collection = "/" not in incident.scope and incident.kind not in (IncidentKind.RUN, IncidentKind.UNLISTED)
    lines = []
    if settings.staff_url and is_of_files:
        lines.append(f"All rejected files: {settings.staff_url}{'' if count > 1 else f'#find={quote(incident.scope)}'}")
    if is_of_collection and count == 1:
        lines.append(f"Map: {settings.map_url}/#{incident.scope.lower()}")
    if settings.dagster_url:
        page = "assets/rejected_files" if is_of_files else "runs"
        lines.append(f"Dagster UI: {settings.dagster_url}/{f'runs/{incident.run}' if incident.run and count == 1 else page}")
    return "\n".join(lines)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _join_paragraphs(*paragraphs: str) -> str:
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
