"""What lies in the bucket of an archive that is to be adopted: its collections, and the COGs of each with what belongs to them.

Only listings are read here, and every COG is told: as a candidate, or with the sentence that says why it cannot be one.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath

from ls4_assets.domain.names import (
    FILM_TYPES,
    TYPES,
    Collection,
    FilmType,
    Frame,
    Shards,
    frame_stem,
    is_tif,
    parse_collection_path,
)
from ls4_assets.errors import InvalidNameError
from ls4_assets.ingest.listing import Dropped, pair_sidecars
from resources.storage import Storage, StoredObject

# Listing an S3 bucket is waiting.
_LISTINGS_AT_ONCE = 16


@dataclass(frozen=True)
class Candidate:
    """A COG under a good name. `source`: the georef tif it belongs to, if that is still there; `newer_source`: that was
    dropped after the COG was made; `scan_file`: real name of the raw scan."""

    frame: Frame
    cog: StoredObject
    source: Dropped | None = None
    newer_source: bool = False
    scan_file: str | None = None


@dataclass
class Survey:
    """`problems`: a sentence by key of each COG that can be no candidate; `sources`: tifs under georef/."""

    candidates: list[Candidate] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    sources: int = 0

    @property
    def keys(self) -> set[str]:
        """Of all COGs that are there, good or bad."""
        return {candidate.cog.key for candidate in self.candidates} | self.problems.keys()


def find_collections(storage: Storage, shards: Shards) -> tuple[list[Collection], list[str]]:
    """Every collection that has a folder, sorted, and a sentence for each folder that is none."""
    with ThreadPoolExecutor(_LISTINGS_AT_ONCE) as threads:
        level = [f"{film_type}/" for film_type in FILM_TYPES]
        for _ in ("shard", "survey", "type"):
            level = [below for found in threads.map(lambda folder: _folders(storage, folder), level) for below in found]
    collections, rejected = set(), []
    for folder in level:
        if PurePosixPath(folder).name not in TYPES:
            continue
        try:
            collections.add(parse_collection_path(folder, shards)[0])
        except InvalidNameError as rejection:
            rejected.append(str(rejection))
    return sorted(collections), rejected


def survey(storage: Storage, of: Collection) -> Survey:
    """Look at all COGs of a collection, of both bands, sorted by partition."""
    found = Survey()
    for film_type in FILM_TYPES:
        _survey_band(storage, of, film_type, found)
    found.candidates.sort(key=lambda candidate: candidate.frame.partition)
    return found


def _survey_band(storage: Storage, of: Collection, film_type: FilmType, found: Survey) -> None:
    folder = of.folder(film_type)
    dropped = [stored for stored in _objects(storage, f"{folder}/georef/") if frame_stem(stored.key)]
    times = {stored.key: stored.modified for stored in dropped}
    sources: dict[str, list[Dropped]] = {}
    for one in pair_sidecars(dropped):
        sources.setdefault(PurePosixPath(one.key).stem, []).append(one)
    found.sources += sum(len(some) for some in sources.values())
    cogs = [one for one in _objects(storage, f"{folder}/cog/") if is_tif(one.key)]
    scans = _scan_files(_objects(storage, f"{folder}/scanned/")) if cogs else {}
    for cog in cogs:
        frame = Frame(of, film_type, PurePosixPath(cog.key).stem)
        mine = sources.get(frame.stem, [])
        if problem := _problem(frame, cog.key, mine):
            found.problems[cog.key] = problem
            continue
        source = mine[0] if mine else None
        newer = source is not None and _latest(source, times) > cog.modified
        found.candidates.append(Candidate(frame, cog, source, newer, scans.get(frame.scan_stem or "")))


def _problem(frame: Frame, key: str, sources: Sequence[Dropped]) -> str | None:
    name = PurePosixPath(key).name
    try:
        _ = frame.attributes
    except InvalidNameError as rejection:
        return f"{key}: {rejection}"
    if key != frame.cog_key:
        return f"{key} would be published as {frame.stem}.tif; rename it to that, and adopt again."
    if len(sources) > 1:
        both = " and ".join(PurePosixPath(source.key).name for source in sources)
        return f"{key}: {both} lie both under georef/, and {name} is of one of them; remove the other, and adopt again."
    return None


def _folders(storage: Storage, folder: str) -> list[str]:
    return [found for found in storage.level(folder) if isinstance(found, str)]


def _objects(storage: Storage, folder: str) -> list[StoredObject]:
    return [found for found in storage.level(folder) if isinstance(found, StoredObject)]


def _latest(source: Dropped, times: dict[str, datetime]) -> datetime:
    return max(times[key] for key in (source.key, *source.sidecars))


def _scan_files(objects: Iterable[StoredObject]) -> dict[str, str]:
    """Real file name by stem; of x.tif and x.TIF the first that the frame's own work would find."""
    names: Iterator[PurePosixPath] = (PurePosixPath(found.key) for found in objects if is_tif(found.key))
    return {path.stem: path.name for path in sorted(names, key=lambda path: path.suffix.islower())}
