"""The assets `collections` and `collections/<survey>`: the collections in the Dagster UI, by the name that people search for.

Dagster's search finds the keys of assets, but neither partitions nor tags. An asset for each collection would be 3,000 nodes, so
one survey, such as USDA_1958, has one asset, and its page lists the collections of all shards, each with its state and links.
The sensor `notifications` stores a materialization of a page when it changed.
"""

import hashlib
import json
import time
from collections.abc import Collection as Names
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

import dagster as dg

from ls4_assets.assets import event_store, keys
from ls4_assets.assets.details import AssetDetails
from ls4_assets.db.lookup import load_collections
from ls4_assets.domain.links import collection_page_url
from ls4_assets.domain.names import Collection
from ls4_assets.operations.status import CollectionStatus, collect
from ls4_assets.runtime.dagster_names import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG
from ls4_assets.settings import Settings
from resources.archive import Archive

GROUP = "collections"
# Each page is 0.9 kB of the first load of the Dagster UI before compression.
MAX_SURVEYS = 1_000
# Entries of a page. A survey has one collection for each shard and type.
MAX_ENTRIES = 1_000
_INTERVAL_SECONDS = 60.0
# The status of a large archive takes a second or two: spend at most one percent of the time on it.
_IDLE_RATIO = 100


class Entry(NamedTuple):
    """A collection and its status."""

    collection: Collection
    status: CollectionStatus


def collection_page_specs(surveys: Names[str], details: AssetDetails) -> list[dg.AssetSpec]:
    """The asset of all surveys, and the one of each."""
    shown = sorted(surveys)[:MAX_SURVEYS]
    fields = details.of(build_pages, "archive")
    everything = dg.AssetSpec(
        keys.COLLECTIONS,
        group_name=GROUP,
        kinds={"report"},
        description="All collections by survey, with the number of their frames on the map and what needs attention.",
        **fields,
    )
    pages = [
        dg.AssetSpec(
            keys.survey(survey),
            group_name=GROUP,
            kinds={"report"},
            description=f"The collections of the survey {survey}: the state of each, its map and its partitions.",
            **fields,
        )
        for survey in shown
    ]
    return [everything, *pages]


class CollectionPages:
    """Updates the pages, at most once in _INTERVAL_SECONDS. `surveys`: those that have an asset."""

    def __init__(self, surveys: Names[str] = ()) -> None:
        self._surveys, self._due_at = surveys, 0.0

    def update_if_due(self, instance: dg.DagsterInstance, archive: Archive) -> int:
        """Store the pages that changed. Returns their number."""
        started = time.monotonic()
        if started < self._due_at:
            return 0
        changed = update_pages(instance, archive, self._surveys)
        ended = time.monotonic()
        self._due_at = ended + max(_INTERVAL_SECONDS, _IDLE_RATIO * (ended - started))
        return changed


def update_pages(instance: dg.DagsterInstance, archive: Archive, surveys: Names[str] = ()) -> int:
    """Store a materialization of each page that differs from its last one. Returns their number."""
    with archive.database.connect() as connection:
        collections = load_collections(connection)
    statuses = collect(archive.settings, limit=0).collections
    entries = [Entry(collections[status.name], status) for status in statuses if status.name in collections]
    pages = build_pages(entries, archive.settings, surveys)
    stored = _load_versions(instance, [*pages])
    changed = [page for key, page in pages.items() if (page.tags or {})[DATA_VERSION_TAG] != stored.get(key)]
    event_store.store_asset_events(instance, event_store.RUNLESS_ORIGIN, changed)
    return len(changed)


def build_pages(
    entries: Sequence[Entry], settings: Settings, surveys: Names[str] = ()
) -> dict[dg.AssetKey, dg.AssetMaterialization]:
    """The materialization of each page, with one entry of metadata for each line, because the UI shows short ones inline.

    `surveys` have a page also when all of their collections were withdrawn.
    """
    by_survey: dict[str, list[Entry]] = {survey: [] for survey in surveys}
    for entry in sorted(entries, key=lambda entry: entry.status.name):
        # A collection that was withdrawn has a row until the sensor removes it.
        if entry.status.dropped or entry.status.indexed:
            by_survey.setdefault(entry.collection.survey, []).append(entry)
    lines_of_all = {
        survey: f"{_link(_count_collections(found), _page_url(survey, settings))} — {_counts(found)}"
        for survey, found in sorted(by_survey.items())
        if found
    }
    pages = {keys.COLLECTIONS: _page(keys.COLLECTIONS, lines_of_all)}
    for survey, found in by_survey.items():
        lines = {entry.collection.name: _line(entry, settings) for entry in found}
        pages[keys.survey(survey)] = _page(keys.survey(survey), lines)
    return pages


def _page(key: dg.AssetKey, lines: Mapping[str, str]) -> dg.AssetMaterialization:
    shown = dict([*lines.items()][:MAX_ENTRIES])
    metadata: dict[str, dg.MetadataValue] = {name: dg.MetadataValue.md(line) for name, line in shown.items()}
    if rest := len(lines) - len(shown):
        metadata["not_shown"] = dg.MetadataValue.int(rest)
    version = hashlib.sha256(json.dumps([shown, rest], sort_keys=True).encode()).hexdigest()[:16]
    tags = {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
    return dg.AssetMaterialization(key, metadata=metadata, tags=tags)


def _line(entry: Entry, settings: Settings) -> str:
    links = [_link("partition", _partition_url(entry.collection, settings))]
    if entry.status.map_url:
        links.insert(0, _link("map", collection_page_url(entry.collection, settings.map_url)))
    return f"{' · '.join(links)} — {_counts([entry])}"


def _count_collections(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} collection{'' if len(entries) == 1 else 's'}"


def _counts(entries: Sequence[Entry]) -> str:
    """Frames on the map, and what is left to do or needs a person."""
    statuses = [entry.status for entry in entries]
    rebuilds = {state: sum(status.rebuild == state for status in statuses) for state in ("pending", "failing")}
    counts = {
        "on the map": sum(status.indexed for status in statuses),
        "waiting": sum(status.waiting for status in statuses),
        "failed": sum(status.failed_count for status in statuses),
        "stale": sum(status.stale for status in statuses),
        "held for confirmation": sum(status.held for status in statuses),
    }
    parts = [f"{count:,} {name}" for name, count in counts.items() if count or name == "on the map"]
    return ", ".join([*parts, *(f"rebuild {state}" for state, count in rebuilds.items() if count)])


def _link(text: str, url: str) -> str:
    return f"[{text}]({url})"


def _page_url(survey: str, settings: Settings) -> str:
    return f"{settings.dagster_url}/assets/{'/'.join(quote(part, safe='') for part in keys.survey(survey).path)}"


def _partition_url(collection: Collection, settings: Settings) -> str:
    path = "/".join(quote(part, safe="") for part in keys.tile_index(collection.shard).path)
    return f"{settings.dagster_url}/assets/{path}?view=partitions&partition={quote(collection.partition, safe='')}"


def _load_versions(instance: dg.DagsterInstance, asset_keys: Sequence[dg.AssetKey]) -> dict[dg.AssetKey, str]:
    return dict(_versions(instance, asset_keys))


def _versions(instance: dg.DagsterInstance, asset_keys: Sequence[dg.AssetKey]) -> Iterator[tuple[dg.AssetKey, str]]:
    """The data version of the last materialization of each asset."""
    for record in instance.get_asset_records(asset_keys):
        event = record.asset_entry.last_materialization
        if event and event.asset_materialization:
            yield record.asset_entry.asset_key, (event.asset_materialization.tags or {}).get(DATA_VERSION_TAG, "")
