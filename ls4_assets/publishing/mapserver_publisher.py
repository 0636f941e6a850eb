"""The publisher of MapServer: mapfile, TileJSON and WMTS capabilities. Their content is built in `mapserver`.

The TileJSON activates a version: the web front end allows caches to keep the tiles of a version forever. So it is written last,
after the index and the mapfile have that version's content.
"""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from ls4_assets.domain.names import Collection
from ls4_assets.publishing.map_publisher import CollectionMap, Documents, MapLinks, Point, PublisherCheck, SmokeTestResult
from ls4_assets.settings import MapPublisherName, Settings
from mapserver import mapfile
from mapserver.rendering import FOOTPRINT_TEMPLATE
from mapserver.smoke_test import SmokeTest, smoke_test_mapserv, smoke_test_web
from mapserver.sync import VALIDATORS
from mapserver.tiles import TILEJSON_SUFFIX, WMTS_SUFFIX, TileSet, render_documents
from resources.archive import Archive

# Raise it when the same collection gets other documents: all maps are then rewritten.
_VERSION = "4"


class MapServerPublisher:
    """A mapfile below mapfiles/ for each collection."""

    name: MapPublisherName = "mapserver"
    noun = "mapfile"
    validity_check = PublisherCheck(
        "mapfile_valid",
        "The mapfile contains no password and no machine address, and has the layers that published maps request. "
        "A mapfile that fails is not published, and the last good map stays.",
    )
    smoke_check = PublisherCheck("map_renders", "A real mapserv draws both layers of the published map around one frame.")

    def version(self, settings: Settings) -> str:
        return _VERSION

    def render(self, archive: Archive, state: CollectionMap) -> Documents:
        collection, description = state.collection, archive.settings.archive_description
        rights = description.rights.of(collection)
        context = mapfile.MapfileContext(
            name=collection.name,
            map_name=collection.map_name,
            title=collection.title,
            table=collection.table,
            extent=state.extent,
            overview_resolution=state.overview_resolution,
            capabilities=replace(
                description.capabilities, license=rights.license, attribution=rights.attribution, citation=rights.citation
            ),
            service=archive.settings.postgres_service,
        )
        tiles = TileSet(
            collection.name,
            collection.table,
            collection.label,
            state.extent,
            state.pixel_size,
            state.revision,
            rights.attribution,
            rights.license,
        )
        return {
            str(PurePosixPath(collection.map_key).with_name(FOOTPRINT_TEMPLATE.name)): FOOTPRINT_TEMPLATE.read_bytes(),
            collection.map_key: mapfile.render(context).encode(),
            **{collection.map_document_key(suffix): text.encode() for suffix, text in render_documents(tiles).items()},
        }

    def document_keys(self, collection: Collection) -> tuple[str, ...]:
        return (collection.map_key, *(collection.map_document_key(suffix) for suffix in (TILEJSON_SUFFIX, WMTS_SUFFIX)))

    def validate(self, documents: Documents) -> list[str]:
        """The same findings for which the sync sidecar rejects a file."""
        findings = []
        for key, document in documents.items():
            validator = VALIDATORS.get(PurePosixPath(key).suffix)
            try:
                findings += validator(document.decode()) if validator else []
            except UnicodeDecodeError:
                findings.append(f"{key} is not UTF-8 text.")
        return findings

    def smoke_test(self, archive: Archive, collection: Collection, point: Point) -> SmokeTestResult:
        test = _draw(archive, collection, point)
        return SmokeTestResult(test.renderer, test.error)

    def links(self, collection: Collection, settings: Settings) -> MapLinks:
        url = map_url(collection, settings.map_url)
        metadata = {
            "key": collection.map_key,
            "map": url,
            "capabilities": f"{url}&SERVICE=WMS&VERSION=1.3.0&REQUEST=GetCapabilities",
            "layers": f"{collection.name} {collection.name}_index",
        }
        return MapLinks(url, {"wms": url}, _stac_links(collection, settings.map_url), metadata)


def map_url(collection: Collection, map_base_url: str) -> str:
    """WMS address that published maps use; a client appends its own parameters."""
    return f"{map_base_url}/?map=/{collection.map_key}"


def _stac_links(collection: Collection, map_base_url: str) -> tuple[dict[str, Any], ...]:
    """WMS and tiles at the addresses for new clients, which name no mapfile. Link types of the extension web-map-links."""
    wms, tiles = (f"{map_base_url}/{service}/{collection.table}" for service in ("wms", "tiles"))
    png = {"type": "image/png", "title": collection.label}
    return (
        {"rel": "wms", "href": wms, "wms:layers": [collection.name], "wms:transparent": True, **png},
        {"rel": "xyz", "href": f"{tiles}/{{z}}/{{x}}/{{y}}.png", **png},
        {"rel": "tilejson", "href": f"{tiles}/tilejson.json", "type": "application/json", "title": collection.label},
    )


def _draw(archive: Archive, collection: Collection, point: Point) -> SmokeTest:
    """Draw with this machine's mapserv if the archive has local paths, otherwise through the web front end."""
    settings = archive.settings
    if archive.storage.capabilities.has_local_paths:
        published, url = archive.storage.read(collection.map_key).decode(), settings.database_url.get_secret_value()
        if test := smoke_test_mapserv(collection, published, point, settings.postgres_service, url):
            return test
    return smoke_test_web(collection, map_url(collection, settings.map_internal_url or settings.map_url), point)
