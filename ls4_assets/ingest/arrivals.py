"""The order in which a tif and its sidecars arrived: what staff changed after they had seen the result has the last word.

Each part has the number of its generation: how many versions of the drop had been processed when this part got its present
content. Parts that arrive before the tif has been processed share a generation; a sidecar of the same copy that arrives after it
counts as a correction. `raster.position` decides with these numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ls4_assets.db.schema import SourceState
from ls4_assets.ingest.listing import DroppedFile
from resources.storage import StoredObject

Arrivals = Mapping[str, tuple[str, int, str]]
"""By object key: version, generation, and time of the last write as the storage has it, in ISO format."""

PROCESSED_STATES = (SourceState.DONE, SourceState.FAILED)
# s3fs copies an object onto itself to set its attributes, right after it has written it; people take longer to drop it again.
_SAME_DROP = timedelta(seconds=15)
_UNKNOWN = ""


@dataclass(frozen=True)
class SourceSnapshot:
    """The source table's row of one key. Times are aware UTC; `missing_since`: when a listing first lacked the key.

    `arrivals` is empty for a tif without sidecars, and None for a row of an earlier version of ls4, which ignored some kinds of
    sidecars: these may have lain beside the tif all the time.
    """

    version: str
    state: SourceState
    changed_at: datetime
    reason: str | None = None
    missing_since: datetime | None = None
    sidecars: tuple[str, ...] = ()
    arrivals: Arrivals | None = None


def next_arrivals(dropped: DroppedFile, before: SourceSnapshot | None) -> Arrivals:
    """The arrivals to record for a drop; empty for a tif without sidecars, whose order says nothing."""
    if not dropped.sidecars:
        return {}
    if before is None or before.state == SourceState.DELETED:
        known: Arrivals = {}
        generation = 0
    else:
        old = _arrivals_of_old_row(dropped, before) if before.arrivals is None else before.arrivals
        known = old or {dropped.key: (before.version, 0, "")}
        generation = max(arrival[1] for arrival in known.values()) + (before.state in PROCESSED_STATES)
    again = dropped_again(dropped, before)
    arrivals: dict[str, tuple[str, int, str]] = {}
    for part in dropped.parts:
        version, since, _ = known.get(part.key, (None, generation, ""))
        is_same = version in (part.version, _UNKNOWN) and part.key not in again
        modified = part.modified.isoformat() if isinstance(part, StoredObject) else ""
        arrivals[part.key] = (part.version, since if is_same else generation, modified)
    return arrivals


def dropped_again(dropped: DroppedFile, before: SourceSnapshot | None) -> set[str]:
    """Sidecars of a failed drop that were written again with the same content, which the version does not show on S3."""
    if before is None or before.state != SourceState.FAILED:
        return set()
    if before.arrivals is None:
        return _written_since(dropped, before)
    return {
        part.key
        for part in dropped.parts
        if isinstance(part, StoredObject) and part.key != dropped.key
        for version, _, modified in [before.arrivals.get(part.key, (None, 0, ""))]
        if version == part.version and modified and part.modified - datetime.fromisoformat(modified) > _SAME_DROP
    }


def _arrivals_of_old_row(dropped: DroppedFile, before: SourceSnapshot) -> Arrivals:
    """The arrivals of a row without them: of a drop before arrivals were recorded.

    Its version is that of the tif, and a hash over those of all sidecars: which of several changed is unknown. Only a sidecar
    that was written after the drop had been processed is newer.
    """
    tif_version, _, _ = before.version.partition("+")
    newer = _written_since(dropped, before)
    sidecars = {key: ("unlike any version" if key in newer else _UNKNOWN, 0, "") for key in dropped.sidecars}
    return {dropped.key: (tif_version, 0, ""), **sidecars}


def _written_since(dropped: DroppedFile, before: SourceSnapshot) -> set[str]:
    """The sidecars that were written after the row had got its state."""
    sidecars = (part for part in dropped.parts if isinstance(part, StoredObject) and part.key != dropped.key)
    return {part.key for part in sidecars if part.modified > before.changed_at}
