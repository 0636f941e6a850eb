"""The sidecar that brings published maps from a bucket on S3 to MapServer: `python -m mapserver.sync`.

Every two seconds it lists `mapfiles/`, fetches what changed and puts it into MapServer's folder whole. MapServer and nginx
read that folder alone: when S3 hangs or fails, the maps that are there go on being served. What is not a whole, sound map is
rejected and the last good one stays; a map is removed only when complete listings go on lacking it. Nothing is locked and nothing
is remembered across a restart, so the process may be killed at any moment.
"""

import argparse
import json
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from ls4_assets.errors import ConfigurationError, Ls4Error, NotFoundError
from mapserver import mapfile
from mapserver.rendering import FOOTPRINT
from mapserver.tiles import TILEJSON_SUFFIX, WMTS_SUFFIX, tilejson_findings, wmts_findings
from resources.s3_storage import S3Storage
from resources.storage import StoredObject

PREFIX = "mapfiles/"
# The list that the page reads; written by ls4_assets.publishing.collection_list.
COLLECTIONS_KEY = "derived/collections.json"
# The list that the staff's page reads; written by ls4_assets.notifications.
REJECTIONS_KEY = "staff/rejections.json"
SECONDS = 2.0
LARGEST = 8 << 20
FETCHES = 8
READ_TIMEOUT = 5.0

# What alarms look for in the log (deploy/aws/alarms.py): that a look failed, and that this process is there at all.
FAULT, BEAT = "the maps stay as they are", "this sidecar is looking"

# Looks in a row that must lack a file before it is removed, and how many when most of many are gone at once: that is
# more likely a fault (a wrong bucket, a listing cut short) than so many withdrawals.
PATIENCE = 2
GREAT_PATIENCE = 30
MANY = 30

_LOG = logging.getLogger("sync")
_NAME = re.compile(r"[a-z0-9_]+(?P<suffix>\.[a-z]+)")


def map_findings(text: str) -> list[str]:
    """What is wrong with a mapfile; the end of one that was cut off is missing."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or (lines[0], lines[-1]) != ("MAP", "END"):
        return ["It is no whole mapfile, from MAP to END."]
    return mapfile.findings(text)


def list_findings(text: str, of: str = "collections") -> list[str]:
    """What is wrong with the list of collections, or of rejections."""
    try:
        listed = json.loads(text)
    except ValueError as error:
        return [f"It is no JSON: {error}."]
    sound = isinstance(listed, dict) and isinstance(listed.get(of), list)
    return [] if sound else [f"It is no list of {of}."]


# What is brought from below PREFIX, by suffix, and how it is looked over. They are put in this order: with the TileJSON a version
# comes into force, for whose tiles the mapfile must be there.
DOCUMENTS: Mapping[str, Callable[[str], list[str]]] = {
    ".map": map_findings,
    WMTS_SUFFIX: wmts_findings,
    TILEJSON_SUFFIX: tilejson_findings,
}


@dataclass
class Sync:
    """`folder` is MapServer's and belongs to this process alone, but for files of other suffixes; `collections` is where the
    page's list goes, `rejections` where the staff page's does; `state` tells a health check when the last complete look was."""

    storage: S3Storage
    folder: Path
    collections: Path
    state: Path
    rejections: Path | None = None
    versions: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    absences: dict[str, int] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    minutes: dict[str, int] = field(default_factory=dict)

    def run(self, seconds: float) -> None:
        """Look for ever. A look that fails changes nothing but the log."""
        while True:
            self._keep_telling(BEAT)
            try:
                self.look()
            except (BotoCoreError, ClientError, Ls4Error, OSError) as error:
                self.told.pop("look", None)
                self._keep_telling(FAULT, str(error))
            time.sleep(seconds)

    def look(self) -> None:
        """One look. Raises what the bucket raises, before anything is removed."""
        listed = list(self.storage.list(PREFIX))
        pages = (self.storage.head(key) for key in self._pages)
        found = {each.key: each for each in (*filter(self._is_ours, listed), *filter(None, pages))}
        served = self._served()
        self.rejected = {key: reason for key, reason in self.rejected.items() if key in found}
        self.versions = {key: version for key, version in self.versions.items() if key in found}
        self._bring(self._changed(found))
        self._withdraw(served, {self._place(key).name for key in found})
        self._note()
        self._tell("look", "all that is published is here")

    def _is_ours(self, found: StoredObject) -> bool:
        name = _NAME.fullmatch(found.key.removeprefix(PREFIX))
        ours = name is not None and name["suffix"] in DOCUMENTS
        # The template is there for those who read a mount: the map server has one of its own version.
        if not ours and found.key != PREFIX + FOOTPRINT.name:
            self._tell(found.key, f"{found.key!r} is no file of a map and is left alone")
        return ours

    def _changed(self, found: Mapping[str, StoredObject]) -> list[StoredObject]:
        """What is to be fetched, in the order in which it is put. A mapfile comes again with each of its documents: it may have
        been published after the listing had passed its name, but before theirs."""
        keys = {key for key, each in found.items() if not self._is_here(each)}
        keys |= {mapfile_key for key in keys if (mapfile_key := str(Path(key).with_suffix(".map"))) in found}
        suffixes = [*DOCUMENTS, Path(COLLECTIONS_KEY).suffix]
        return [found[key] for key in sorted(keys, key=lambda key: suffixes.index(Path(key).suffix))]

    def _is_here(self, found: StoredObject) -> bool:
        same = self.versions.get(found.key) == found.version
        return same and (found.key in self.rejected or self._place(found.key).exists())

    def _place(self, key: str) -> Path:
        return self._pages.get(key) or self.folder / key.removeprefix(PREFIX)

    @property
    def _pages(self) -> dict[str, Path]:
        """What pages read, by key, and where it goes."""
        return {COLLECTIONS_KEY: self.collections} | ({REJECTIONS_KEY: self.rejections} if self.rejections else {})

    def _served(self) -> set[str]:
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return {name[0] for name in names if name and name["suffix"] in DOCUMENTS}

    def _bring(self, changed: Iterable[StoredObject]) -> None:
        """Fetch side by side, as a new server starts with thousands; the first outage ends it, what came until then is kept."""
        pool = ThreadPoolExecutor(FETCHES)
        try:
            for found, data in pool.map(self._fetch, changed):
                self._take(found, data)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, found: StoredObject) -> tuple[StoredObject, bytes | None]:
        """None: it may not or need not be read."""
        if found.size > LARGEST:
            return found, None
        try:
            return found, self.storage.read(found.key, 0, LARGEST)
        except NotFoundError:
            return found, None  # withdrawn a moment ago: the next look tells
        except ClientError as error:
            self._tell(found.key, f"{found.key} cannot be read: {error}")
            return found, None

    def _take(self, found: StoredObject, data: bytes | None) -> None:
        if data is None and found.size <= LARGEST:
            return
        self.versions[found.key] = found.version
        findings = [f"It has more than {LARGEST} bytes."] if data is None else self._findings(found.key, data)
        if findings:
            self.rejected[found.key] = " ".join(findings)
            kept = "the last good one stays" if self._place(found.key).exists() else "it is not served"
            self._tell(found.key, f"{found.key} is rejected, {kept}: {self.rejected[found.key]} Publish it again.")
            return
        assert data is not None
        self.rejected.pop(found.key, None)
        if replace_whole(self._place(found.key), data):
            self._tell(found.key, f"{found.key} is here, version {found.version}")

    def _findings(self, key: str, data: bytes) -> list[str]:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            return [f"It is no UTF-8 text: {error}."]
        return list_findings(text, Path(key).stem) if key in self._pages else DOCUMENTS[Path(key).suffix](text)

    def _withdraw(self, served: set[str], published: set[str]) -> None:
        missing = served - published
        self.absences = {name: self.absences.get(name, 0) + 1 for name in missing}
        most = len(missing) > MANY and 2 * len(missing) > len(served)
        if most:
            self._tell("withdrawals", f"{len(missing)} of {len(served)} files are gone from the bucket; they stay for a while")
        for name, looks in self.absences.items():
            if looks >= (GREAT_PATIENCE if most else PATIENCE):
                (self.folder / name).unlink(missing_ok=True)
                self._tell(PREFIX + name, f"{PREFIX}{name} was withdrawn")

    def _note(self) -> None:
        """Its time is the last complete look's; what it holds is for people."""
        noted = {
            "synced_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "maps": len(list(self.folder.glob("*.map"))),
            "rejected": self.rejected,
        }
        replace_whole(self.state, json.dumps(noted, indent=1).encode())

    def _tell(self, about: str, what: str) -> None:
        """Say it once, not at every look."""
        if self.told.get(about) != what:
            self.told[about] = what
            _LOG.info(what)

    def _keep_telling(self, what: str, more: str = "") -> None:
        """Say it once in each minute of the clock in which it is so: an alarm knows nothing but the lines of its last minutes."""
        minute = int(time.time() // 60)
        if self.minutes.get(what) != minute:
            self.minutes[what] = minute
            _LOG.info(": ".join(filter(None, (what, more))))


def replace_whole(path: Path, data: bytes) -> bool:
    """A reader sees the old file or the new one. False when it holds this already."""
    if path.exists() and path.read_bytes() == data:
        return False
    half = path.with_name(f".{path.name}.part")
    half.write_bytes(data)
    half.chmod(0o644)
    half.replace(path)
    return True


def open_bucket(storage: str, endpoint_url: str | None, region: str | None) -> S3Storage:
    scheme, _, bucket = storage.partition("://")
    if scheme != "s3" or not bucket.strip("/"):
        raise ConfigurationError(f"{storage!r} is no bucket such as s3://name: let MapServer read the archive's folder itself.")
    return S3Storage(bucket.strip("/"), endpoint_url, region, read_timeout=READ_TIMEOUT)


def main(arguments: Sequence[str] | None = None) -> None:
    """Bring maps until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser("python -m mapserver.sync", description="Bring published maps from S3 to MapServer.")
    add, environment = parser.add_argument, os.environ.get
    add("--storage", default=environment("LS4_STORAGE", ""), help="the bucket, s3://name (default: LS4_STORAGE)")
    add("--endpoint-url", default=environment("LS4_S3_ENDPOINT_URL"), help="an S3 server other than AWS")
    add("--region", default=environment("LS4_S3_REGION"), help="the bucket's region")
    add("--mapfiles", type=Path, required=True, help="MapServer's folder of mapfiles")
    add("--collections", type=Path, required=True, help="where the page's list of collections goes")
    add("--rejections", type=Path, help="where the staff page's list of rejected files goes; default: nowhere")
    add("--state", type=Path, required=True, help="written after each complete look, for a health check")
    add("--seconds", type=float, default=SECONDS, help="between two looks")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s", level=logging.INFO)
    for number in (signal.SIGTERM, signal.SIGINT):
        # At once, even from a request that hangs: every file is whole at every moment.
        signal.signal(number, lambda *_: os._exit(0))
    for folder in (
        given.mapfiles,
        given.collections.parent,
        given.state.parent,
        *([given.rejections.parent] if given.rejections else []),
    ):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        bucket = open_bucket(given.storage, given.endpoint_url, given.region)
    except ConfigurationError as error:
        parser.error(str(error))
    Sync(bucket, given.mapfiles, given.collections, given.state, given.rejections).run(given.seconds)


if __name__ == "__main__":
    main()
