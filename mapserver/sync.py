"""The mapfile sidecar: `python -m mapserver.sync` copies published maps from a bucket to MapServer's folder.

Every two seconds it lists `mapfiles/`, fetches what changed and replaces the local files atomically. MapServer and nginx read
only that folder, so they keep serving while the bucket's server hangs or fails. An invalid file is rejected and the last good
version stays; a map is removed only after several complete listings without it. The process takes no locks and keeps no state
across restarts, so it can be killed at any time. Publishing to the bucket is in `ls4_assets.publishing`; the validators are in
`mapfile` and `tiles`.
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

from ls4_assets import logs
from ls4_assets.domain.storages import KINDS, parse_address
from ls4_assets.errors import ConfigurationError, Ls4Error, NotFoundError
from mapserver import mapfile
from mapserver.rendering import FOOTPRINT_TEMPLATE
from mapserver.tiles import TILEJSON_SUFFIX, WMTS_SUFFIX, validate_tilejson, validate_wmts
from resources.buckets import BucketOptions, open_bucket
from resources.storage import Storage, StoredObject

PREFIX = "mapfiles/"
# The list for the map page, written by ls4_assets.publishing.collection_list.
COLLECTIONS_KEY = "derived/collections.json"
# The list for the staff page, written by ls4_assets.notifications.
REJECTIONS_KEY = "staff/rejections.json"
INTERVAL_SECONDS = 2.0
READ_TIMEOUT_SECONDS = 5.0
MAX_BYTES = 8 << 20
PARALLEL_FETCHES = 8

# Log events that alarms count (deploy/aws/alarms.py): a failed sync, and a process that is running at all.
FAILED_EVENT: logs.EventName = "sync_failed"
HEARTBEAT_EVENT: logs.EventName = "sync_heartbeat"

# A file is removed after this many consecutive complete listings without it. When more than MASS_THRESHOLD files and more than
# half of all are missing at once, a fault (a wrong bucket, a truncated listing) is more likely than withdrawals, so removal waits
# longer.
REMOVE_AFTER_LISTINGS = 2
MASS_REMOVE_AFTER_LISTINGS = 30
MASS_THRESHOLD = 30

_NAME = re.compile(r"[a-z0-9_]+(?P<suffix>\.[a-z]+)")


def validate_complete_mapfile(text: str) -> list[str]:
    """The faults of a mapfile, as sentences. A truncated one lacks its last line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or (lines[0], lines[-1]) != ("MAP", "END"):
        return ["The file is not a complete mapfile, from MAP to END."]
    return mapfile.validate_mapfile(text)


def validate_list(text: str, name: str = "collections") -> list[str]:
    """The faults of a list for a page, as sentences. `name`: "collections" or "rejections"."""
    try:
        document = json.loads(text)
    except ValueError as error:
        return [f"The file is not JSON: {error}."]
    is_valid = isinstance(document, dict) and isinstance(document.get(name), list)
    return [] if is_valid else [f"The file is not a list of {name}."]


# The validators of files below PREFIX, by suffix. Files are replaced in this order: the TileJSON makes a new version of the tiles
# current, so the mapfile must be in place before it.
VALIDATORS: Mapping[str, Callable[[str], list[str]]] = {
    ".map": validate_complete_mapfile,
    WMTS_SUFFIX: validate_wmts,
    TILEJSON_SUFFIX: validate_tilejson,
}


@dataclass
class MapfileSync:
    """Copies the maps of one bucket to one folder.

    folder: MapServer's folder of mapfiles. This process owns its files with the suffixes of VALIDATORS.
    collections, rejections: where the lists of the map page and of the staff page go; without `rejections` the latter is not
      copied.
    state: a JSON file that is written after each complete sync; a health check reads its age.
    """

    storage: Storage
    folder: Path
    collections: Path
    state: Path
    rejections: Path | None = None
    versions: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    absences: dict[str, int] = field(default_factory=dict)
    logged: dict[str, tuple[str, dict[str, object]]] = field(default_factory=dict)
    logged_minutes: dict[str, int] = field(default_factory=dict)

    def run(self, interval_seconds: float) -> None:
        """Sync forever. A failed sync changes no file; it is logged."""
        failures: tuple[type[Exception], ...] = (*self.storage.errors.outage, Ls4Error, OSError)
        while True:
            self._log_every_minute(HEARTBEAT_EVENT)
            try:
                self.sync_once()
            except failures as error:
                self.logged.pop("sync", None)
                self._log_every_minute(FAILED_EVENT, logging.ERROR, reason=str(error))
            time.sleep(interval_seconds)

    def sync_once(self) -> None:
        """List, fetch and remove once. Errors of the bucket are raised before anything is removed."""
        listing = list(self.storage.list(PREFIX))
        lists = (self.storage.head(key) for key in self._list_paths)
        objects = {each.key: each for each in (*filter(self._is_map_file, listing), *filter(None, lists))}
        served = self._served_names()
        self.rejected = {key: reason for key, reason in self.rejected.items() if key in objects}
        self.versions = {key: version for key, version in self.versions.items() if key in objects}
        self._fetch_all(self._changed(objects))
        self._remove_missing(served, {self._path(key).name for key in objects})
        self._write_state()
        self._log_once("sync", "sync_completed")

    def _is_map_file(self, candidate: StoredObject) -> bool:
        name = _NAME.fullmatch(candidate.key.removeprefix(PREFIX))
        is_map_file = name is not None and name["suffix"] in VALIDATORS
        # The HTML template is in the bucket for map servers that read a mount; this one has its own copy.
        if not is_map_file and candidate.key != PREFIX + FOOTPRINT_TEMPLATE.name:
            self._log_once(candidate.key, "mapfile_ignored", key=candidate.key, reason="Its name is not that of a map file.")
        return is_map_file

    def _changed(self, objects: Mapping[str, StoredObject]) -> list[StoredObject]:
        """The objects to fetch, in the order in which their files are replaced.

        A mapfile is fetched again with each of its documents: it may have been published after the listing passed its name but
        before the listing reached theirs.
        """
        keys = {key for key, each in objects.items() if not self._is_current(each)}
        keys |= {mapfile_key for key in keys if (mapfile_key := str(Path(key).with_suffix(".map"))) in objects}
        suffixes = [*VALIDATORS, Path(COLLECTIONS_KEY).suffix]
        return [objects[key] for key in sorted(keys, key=lambda key: suffixes.index(Path(key).suffix))]

    def _is_current(self, candidate: StoredObject) -> bool:
        is_same_version = self.versions.get(candidate.key) == candidate.version
        return is_same_version and (candidate.key in self.rejected or self._path(candidate.key).exists())

    def _path(self, key: str) -> Path:
        return self._list_paths.get(key) or self.folder / key.removeprefix(PREFIX)

    @property
    def _list_paths(self) -> dict[str, Path]:
        """The local paths of the pages' lists, by key."""
        return {COLLECTIONS_KEY: self.collections} | ({REJECTIONS_KEY: self.rejections} if self.rejections else {})

    def _served_names(self) -> set[str]:
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return {name[0] for name in names if name and name["suffix"] in VALIDATORS}

    def _fetch_all(self, changed: Iterable[StoredObject]) -> None:
        """Fetch in parallel, because a new server starts with thousands. The first outage ends it; files fetched before stay."""
        pool = ThreadPoolExecutor(PARALLEL_FETCHES)
        try:
            for candidate, data in pool.map(self._fetch, changed):
                self._install(candidate, data)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, candidate: StoredObject) -> tuple[StoredObject, bytes | None]:
        """The object and its content; None for one that is too large, was deleted or cannot be read."""
        if candidate.size > MAX_BYTES:
            return candidate, None
        try:
            return candidate, self.storage.read(candidate.key, 0, MAX_BYTES)
        except NotFoundError:
            return candidate, None  # deleted after the listing: the next sync handles it
        except self.storage.errors.rejected as error:
            self._log_once(candidate.key, "mapfile_unreadable", logging.ERROR, key=candidate.key, reason=str(error))
            return candidate, None

    def _install(self, candidate: StoredObject, data: bytes | None) -> None:
        """Replace the local file, or reject the content and keep the file."""
        key = candidate.key
        if data is None and candidate.size <= MAX_BYTES:
            return
        self.versions[key] = candidate.version
        faults = [f"The file has more than {MAX_BYTES} bytes."] if data is None else self._validate(key, data)
        if faults:
            self.rejected[key] = reason = " ".join(faults)
            keeps_last = self._path(key).exists()
            fields = {"reason": f"{reason} Publish it again.", "last_good_version_served": keeps_last}
            self._log_once(key, "mapfile_rejected", logging.ERROR, key=key, **fields)
            return
        assert data is not None
        self.rejected.pop(key, None)
        if replace_atomically(self._path(key), data):
            self._log_once(key, "mapfile_published", key=key, version=candidate.version)

    def _validate(self, key: str, data: bytes) -> list[str]:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            return [f"The file is not UTF-8 text: {error}."]
        return validate_list(text, Path(key).stem) if key in self._list_paths else VALIDATORS[Path(key).suffix](text)

    def _remove_missing(self, served: set[str], published: set[str]) -> None:
        missing = served - published
        self.absences = {name: self.absences.get(name, 0) + 1 for name in missing}
        is_mass_removal = len(missing) > MASS_THRESHOLD and 2 * len(missing) > len(served)
        if is_mass_removal:
            reason = f"Most files are missing from the bucket: check it. They stay for {MASS_REMOVE_AFTER_LISTINGS} listings."
            counts = {"missing": len(missing), "served": len(served)}
            self._log_once("removal", "mapfile_removal_delayed", logging.ERROR, reason=reason, **counts)
        for name, listings in self.absences.items():
            if listings >= (MASS_REMOVE_AFTER_LISTINGS if is_mass_removal else REMOVE_AFTER_LISTINGS):
                (self.folder / name).unlink(missing_ok=True)
                self._log_once(PREFIX + name, "mapfile_removed", key=PREFIX + name)

    def _write_state(self) -> None:
        state = {
            "synced_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "maps": len(list(self.folder.glob("*.map"))),
            "rejected": self.rejected,
        }
        replace_atomically(self.state, json.dumps(state, indent=1).encode())

    def _log_once(self, subject: str, event: logs.EventName, level: int = logging.INFO, **fields: object) -> None:
        """Log an event unless it repeats the last one of its subject."""
        if self.logged.get(subject) != (event, fields):
            self.logged[subject] = (event, fields)
            logs.emit(event, level, **fields)

    def _log_every_minute(self, event: logs.EventName, level: int = logging.INFO, **fields: object) -> None:
        """Log an event once in each minute of the clock: an alarm counts only the events of the last minutes."""
        minute = int(time.time() // 60)
        if self.logged_minutes.get(event) != minute:
            self.logged_minutes[event] = minute
            logs.emit(event, level, **fields)


def replace_atomically(path: Path, data: bytes) -> bool:
    """Replace a file so that readers get the old content or the new one. False when it has this content already."""
    if path.exists() and path.read_bytes() == data:
        return False
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(data)
    temporary.chmod(0o644)
    temporary.replace(path)
    return True


def open_remote_bucket(address: str, endpoint_url: str | None, region: str | None) -> Storage:
    """The bucket of an address such as s3://bucket. Raises ConfigurationError for any other address."""
    kind, _ = parse_address(address)
    if kind.capabilities.has_local_paths:
        examples = " or ".join(each.example for each in KINDS.values() if not each.capabilities.has_local_paths)
        raise ConfigurationError(
            f"{address!r} is not a bucket such as {examples}: for an archive in a folder, let MapServer read that folder."
        )
    options = BucketOptions(s3_endpoint_url=endpoint_url, s3_region=region, read_timeout_seconds=READ_TIMEOUT_SECONDS)
    return open_bucket(address, options)


def main(arguments: Sequence[str] | None = None) -> None:
    """Sync until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser("python -m mapserver.sync", description="Copy published maps from a bucket to MapServer.")
    add, environment = parser.add_argument, os.environ.get
    add("--storage", default=environment("LS4_STORAGE", ""), help="the bucket, such as s3://bucket (default: LS4_STORAGE)")
    add("--endpoint-url", default=environment("LS4_S3_ENDPOINT_URL"), help="an S3 server other than AWS")
    add("--region", default=environment("LS4_S3_REGION"), help="the bucket's region")
    add("--mapfiles", type=Path, required=True, help="MapServer's folder of mapfiles")
    add("--collections", type=Path, required=True, help="target of the map page's list of collections")
    add("--rejections", type=Path, help="target of the staff page's list of rejected files; default: not copied")
    add("--state", type=Path, required=True, help="file that is written after each complete sync, for a health check")
    add("--seconds", type=float, default=INTERVAL_SECONDS, help="pause between two syncs")
    options = parser.parse_args(arguments)
    logs.configure()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Exit at once, even from a request that hangs: every file is complete at all times.
        signal.signal(number, lambda *_: os._exit(0))
    for folder in (
        options.mapfiles,
        options.collections.parent,
        options.state.parent,
        *([options.rejections.parent] if options.rejections else []),
    ):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        bucket = open_remote_bucket(options.storage, options.endpoint_url, options.region)
    except ConfigurationError as error:
        parser.error(str(error))
    MapfileSync(bucket, options.mapfiles, options.collections, options.state, options.rejections).run(options.seconds)


if __name__ == "__main__":
    main()
