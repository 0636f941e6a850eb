"""The port of a map server: what it needs in the bucket for a collection, how that is checked, and where people find the map.

A publisher turns the state of a collection into documents, which are objects that its server reads. `maps` has the list of
publishers and does with their documents what is the same for all: validate, write, and delete. The implementations are
`mapserver_publisher` and `mosaicjson_publisher`; only they import their server's code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ls4_assets.domain.names import Collection
from ls4_assets.errors import Ls4Error
from ls4_assets.settings import MapPublisherName, Settings
from resources.archive import Archive

# Content of objects by key.
Documents = Mapping[str, bytes]
# minx, miny, maxx, maxy in EPSG:3857 meters.
Extent = tuple[float, float, float, float]
# Easting and northing in EPSG:3857 meters.
Point = tuple[float, float]


@dataclass(frozen=True)
class CollectionMap:
    """The state of a collection to publish.

    extent: of all footprints. revision: of the tile index; it increases with every change of the map. pixel_size: median pixel
    width of the frames in EPSG:3857 meters. overview_resolution: meters per pixel of the overview mosaic; None without one.
    """

    collection: Collection
    extent: Extent
    revision: int
    pixel_size: float
    overview_resolution: float | None = None


@dataclass(frozen=True)
class MapLinks:
    """Where people and programs find a collection's map.

    map_url: address in `ls4 status`. listed: fields of the collection in collections.json. stac: links of the STAC collection.
    metadata: what the Dagster UI shows with the materialization.
    """

    map_url: str
    listed: Mapping[str, str]
    stac: tuple[dict[str, Any], ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PublisherCheck:
    """Name and description of an asset check."""

    name: str
    description: str


@dataclass(frozen=True)
class SmokeTestResult:
    """renderer: what read the published map; None if it could not be reached. error: empty if the map shows a photograph."""

    renderer: str | None
    error: str = ""


class MapPublisher(Protocol):
    """One map server.

    name: as in LS4_MAP_PUBLISHERS. noun: what people call its main document. validity_check: of its documents; a finding blocks
    publication. smoke_check: of the published map; it blocks nothing. Check names begin with the name of the main document.
    """

    name: MapPublisherName
    noun: str
    validity_check: PublisherCheck
    smoke_check: PublisherCheck

    def version(self, settings: Settings) -> str:
        """Version of everything but the collection that its documents depend on. When it changes, all maps are rewritten."""

    def render(self, archive: Archive, state: CollectionMap) -> Documents:
        """The documents in the order in which they are written. They may include files that all collections share."""

    def document_keys(self, collection: Collection) -> tuple[str, ...]:
        """Keys of the collection's own documents in the order in which they are deleted. The first is the main document."""

    def validate(self, documents: Documents) -> list[str]:
        """Findings as sentences; empty if the documents may be published."""

    def smoke_test(self, archive: Archive, collection: Collection, point: Point) -> SmokeTestResult:
        """Read the published map around a point that lies on a frame."""

    def links(self, collection: Collection, settings: Settings) -> MapLinks: ...


class InvalidMapError(Ls4Error):
    """Documents have findings, so nothing of the collection was published. `findings`: by the name of the publisher."""

    def __init__(self, collection: Collection, findings: Mapping[MapPublisher, Sequence[str]]) -> None:
        nouns = " and ".join(publisher.noun for publisher in findings)
        sentences = "; ".join(finding for found in findings.values() for finding in found)
        super().__init__(
            f"The {nouns} of {collection.name} was not published: {sentences}. "
            "Fix its template or the setting that it contains, and materialize the mapfile again."
        )
        self.findings = {publisher.name: tuple(found) for publisher, found in findings.items()}
