"""The map publishers, and what is done with the documents of all of them: validate, write, delete, and report.

Several publishers may be active. Nothing is written until the documents of all are valid, then they are written in the order of
LS4_MAP_PUBLISHERS. The port itself is in `map_publisher`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select

from ls4_assets.db import schema
from ls4_assets.db.frames import load_median_pixel_size
from ls4_assets.db.overview_mosaics import load_resolution_on_map
from ls4_assets.db.tile_index import load_extent, load_revision
from ls4_assets.domain.names import Collection
from ls4_assets.errors import NotFoundError
from ls4_assets.publishing.map_publisher import CollectionMap, InvalidMapError, MapLinks, MapPublisher
from ls4_assets.publishing.mapserver_publisher import MapServerPublisher
from ls4_assets.publishing.mosaicjson_publisher import MosaicJsonPublisher
from ls4_assets.settings import MapPublisherName, Settings
from resources.archive import Archive
from resources.storage import Storage

MAP_PUBLISHERS: Mapping[MapPublisherName, MapPublisher] = {
    publisher.name: publisher for publisher in (MapServerPublisher(), MosaicJsonPublisher())
}

# Separates publishers in a map format, "mapserver 1; mosaicjson 1 public".
_SEPARATOR = "; "


def active_publishers(settings: Settings) -> list[MapPublisher]:
    return [MAP_PUBLISHERS[name] for name in settings.map_publishers]


def map_format(settings: Settings) -> str:
    """The active publishers with their versions. A map with another format on record is published again."""
    return _SEPARATOR.join(f"{publisher.name} {publisher.version(settings)}" for publisher in active_publishers(settings))


def publishers_of(recorded_format: str) -> list[MapPublisher]:
    """The publishers of a format on record, without those that no longer exist."""
    names = [part.partition(" ")[0] for part in recorded_format.split(_SEPARATOR)]
    return [publisher for publisher in MAP_PUBLISHERS.values() if publisher.name in names]


def load_format(connection: Connection, collection: Collection) -> str:
    """The format of the published map; empty if the collection has no row."""
    columns = schema.collection.c
    return connection.scalar(select(columns.map_format).where(columns.name == collection.name)) or ""


def load_map(connection: Connection, collection: Collection) -> CollectionMap | None:
    """The state to publish; None if the collection has no frames."""
    extent = load_extent(connection, collection)
    if extent is None:
        return None
    revision, pixel_size = load_revision(connection, collection), load_median_pixel_size(connection, collection)
    return CollectionMap(collection, extent, revision, pixel_size, load_resolution_on_map(connection, collection))


def publish(archive: Archive, state: CollectionMap) -> None:
    """Write the documents of all active publishers. Raises InvalidMapError, and writes nothing, if one has findings."""
    rendered = [(publisher, publisher.render(archive, state)) for publisher in active_publishers(archive.settings)]
    findings = {publisher: publisher.validate(documents) for publisher, documents in rendered}
    if any(findings.values()):
        raise InvalidMapError(state.collection, {publisher: found for publisher, found in findings.items() if found})
    for _, documents in rendered:
        for key, data in documents.items():
            if not _is_unchanged(archive.storage, key, data):
                archive.storage.put(key, data)


def withdraw(archive: Archive, collection: Collection, publishers: Iterable[MapPublisher] | None = None) -> None:
    """Delete the documents of all publishers, or of `publishers`, whether or not they are active."""
    for publisher in MAP_PUBLISHERS.values() if publishers is None else publishers:
        for key in publisher.document_keys(collection):
            archive.storage.delete(key)


def read_published(storage: Storage, publisher: MapPublisher, collection: Collection) -> dict[str, bytes]:
    """The documents in the bucket; empty if the main document is missing, because the map is then withdrawn."""
    documents: dict[str, bytes] = {}
    for key in publisher.document_keys(collection):
        try:
            documents[key] = storage.read(key)
        except NotFoundError:
            if not documents:
                return {}
    return documents


def map_links(collection: Collection, settings: Settings) -> MapLinks:
    """The links of all active publishers. The address of the map is that of the first one."""
    links = [publisher.links(collection, settings) for publisher in active_publishers(settings)]
    listed: dict[str, str] = {}
    metadata: dict[str, str] = {}
    stac: list[dict[str, Any]] = []
    for each in links:
        listed |= each.listed
        metadata |= each.metadata
        stac += each.stac
    return MapLinks(links[0].map_url, listed, tuple(stac), metadata)


def _is_unchanged(storage: Storage, key: str, data: bytes) -> bool:
    """Whether the object already has these bytes. Writing it again could change its ETag, which downstream caches depend on."""
    stored = storage.head(key)
    return stored is not None and stored.size == len(data) and storage.read(key) == data
