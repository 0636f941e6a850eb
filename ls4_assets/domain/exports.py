"""The registry of the files that people download of a whole collection. Code that handles them iterates over it.

To add an export, see docs/extending.md. The functions that write the files are in `publishing/export_files.py`, by name. Files of
each frame are in `products`; STAC documents, which link to each other, have their keys in `export_keys`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.names import Collection

ExportName = Literal["items", "footprints_geojson", "footprints_parquet", "mosaic"]


@dataclass(frozen=True)
class CollectionExport:
    """One file of each collection, or one for each of its film types.

    name: also that of its asset in the STAC collection; to that of a film type, _<film type> is appended.
    key: object key, with {collection} and, if there is a file for each film type, {film_type}.
    needs_cogs: it has only frames whose COG's location is known. An export without frames has no file.
    listed_as: its field of `exports` in collections.json; "" if it is not listed.
    stac_role: role of its asset.
    title: for people, in STAC and on docs/reference/exports.md.
    """

    name: ExportName
    key: str
    content_type: str
    stac_role: str
    title: str
    listed_as: str = ""
    needs_cogs: bool = False

    @property
    def is_per_film_type(self) -> bool:
        return "{film_type}" in self.key

    def variants(self, film_types: Iterable[FilmType]) -> tuple[FilmType | None, ...]:
        """The film types of its files; only None if one file has all of them."""
        return tuple(film_types) if self.is_per_film_type else (None,)

    def key_of(self, collection: Collection, film_type: FilmType | None = None) -> str:
        return self.key.format(collection=collection.name, film_type=film_type)

    def asset_name(self, film_type: FilmType | None) -> str:
        return f"{self.name}_{film_type}" if film_type else self.name


ITEMS = CollectionExport(
    name="items",
    key="derived/{collection}/stac/items.parquet",
    content_type="application/vnd.apache.parquet",
    stac_role="collection-mirror",
    title="All items as stac-geoparquet",
)
FOOTPRINTS_GEOJSON = CollectionExport(
    name="footprints_geojson",
    key="derived/{collection}/footprints.geojson",
    content_type="application/geo+json",
    stac_role="metadata",
    title="Footprints (GeoJSON)",
    listed_as="geojson",
)
FOOTPRINTS_PARQUET = CollectionExport(
    name="footprints_parquet",
    key="derived/{collection}/footprints.parquet",
    content_type="application/vnd.apache.parquet",
    stac_role="metadata",
    title="Footprints (GeoParquet)",
    listed_as="parquet",
)
# GDAL identifies the format by the suffix `.gti.gpkg`.
MOSAIC = CollectionExport(
    name="mosaic",
    key="derived/{collection}/{collection}_{film_type}.gti.gpkg",
    content_type="application/geopackage+sqlite3",
    stac_role="data",
    title="All frames as one raster (GDAL raster tile index)",
    listed_as="mosaics",
    needs_cogs=True,
)

# In the order in which they are written.
EXPORTS: tuple[CollectionExport, ...] = (ITEMS, FOOTPRINTS_GEOJSON, FOOTPRINTS_PARQUET, MOSAIC)


def export_keys_of(collection: Collection) -> list[str]:
    """Returns the keys of all exports that the collection may have."""
    return [export.key_of(collection, film_type) for export in EXPORTS for film_type in export.variants(FILM_TYPES)]
