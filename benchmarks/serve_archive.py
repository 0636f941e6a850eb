"""The archive of the serving benchmark: collections of overlapping frames on S3, with the platform's tile index and map.

All frames are copies of one COG at different positions: 60% overlap along a flight line, 30% between lines. The functions of the
assets build index, overview mosaic and mapfile.
"""

import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import rasterio
import rasterio.warp
from affine import Affine
from geoalchemy2.shape import from_shape
from shapely import from_wkb
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, mapping
from sqlalchemy.dialects.postgresql import insert

from benchmarks.photographs import write_photograph
from ls4_assets.assets.collections import publish_map, refresh_index
from ls4_assets.assets.overview_mosaic import refresh_overview_mosaic
from ls4_assets.db import schema
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.profiles import PROFILES
from ls4_assets.raster.frame import process, product_path
from ls4_assets.raster.overview_grid import zoom_resolution
from ls4_assets.raster.source import Limits
from resources.archive import Archive

SIDE = 2048
NATIVE_ZOOM = 17
PIXEL = zoom_resolution(NATIVE_ZOOM)
_ALONG, _ACROSS = 0.4 * SIDE * PIXEL, 0.7 * SIDE * PIXEL
_WEST, _NORTH = -10_880_000.0, 3_540_000.0
# Meters between collections: no view of one collection shows another.
_COLLECTION_DISTANCE = 400_000.0
# Frames per flight line, by frames in the collection.
_LINE = {10: 10, 100: 10, 1000: 25}
_UPLOADS = 8

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class SampleCog:
    """A COG with its upper left corner at `_WEST`, `_NORTH`, and its footprint and interior in EPSG:3857."""

    data: bytes
    outline: MultiPolygon
    interior: MultiPolygon
    valid_share: float

    def moved_to(self, west: float, north: float) -> bytes:
        """The same COG at another position; only its tie point changes."""
        original, moved = (struct.pack("<2d", *corner) for corner in ((_WEST, _NORTH), (west, north)))
        assert self.data.count(original) == 1, "The COG must contain its tie point exactly once; use GDAL to move it instead."
        return self.data.replace(original, moved)


@dataclass(frozen=True)
class SyntheticCollection:
    """A collection of `count` frames; `number` determines its position and name."""

    count: int
    number: int

    @cached_property
    def collection(self) -> Collection:
        return Collection("Travis", f"USDA_{1950 + self.number}", "frames")

    @cached_property
    def corners(self) -> list[tuple[float, float]]:
        """The upper left corner of each frame in EPSG:3857."""
        line = _LINE.get(self.count, min(self.count, 10))
        north = _NORTH + self.number * _COLLECTION_DISTANCE
        return [(_WEST + number % line * _ALONG, north - number // line * _ACROSS) for number in range(self.count)]

    @property
    def extent(self) -> Bounds:
        """The bounds of all frames with their collars in EPSG:3857: west, south, east, north."""
        across, down = zip(*self.corners, strict=True)
        return min(across), min(down) - SIDE * PIXEL, max(across) + SIDE * PIXEL, max(down)

    def frames(self) -> Iterator[tuple[Frame, tuple[float, float]]]:
        for number, corner in enumerate(self.corners):
            yield Frame(self.collection, "bw", f"02-08-{50 + self.number}_{1 + number // 100}-{1 + number % 100}"), corner


def make_sample_cog() -> SampleCog:
    """One photograph with a collar, processed by the platform's three steps."""
    with tempfile.TemporaryDirectory(prefix="ls4-benchmark-") as folder:
        source, work = Path(folder) / "scan.tif", Path(folder) / "work"
        write_photograph(source, SIDE, 1, collar=True)
        with rasterio.open(source, "r+") as tif:
            tif.transform = Affine(PIXEL, 0, _WEST, 0, -PIXEL, _NORTH)
        result = process(source, work, "scan", "bw", PROFILES["bw"], Limits())
        assert result.footprint_wkb
        assert result.interior_wkb
        assert result.valid_share
        outline, interior = from_wkb(result.footprint_wkb), from_wkb(result.interior_wkb)
        return SampleCog(product_path(work, "scan", "cog").read_bytes(), outline, interior, result.valid_share)


def publish(archive: Archive, cog: SampleCog, synthetic: SyntheticCollection) -> None:
    """Write frames to the bucket and the database as runs do; then build index, map and overview mosaic as assets do."""
    collection, storage = synthetic.collection, archive.storage
    frames = list(synthetic.frames())
    with ThreadPoolExecutor(_UPLOADS) as uploads:
        list(uploads.map(lambda item: storage.put(item[0].cog_key, cog.moved_to(*item[1])), frames))
    rows = [_row(cog, frame, corner) for frame, corner in frames]
    with archive.database.begin() as connection:
        values = {"name": collection.name, "shard": collection.shard, "partition": collection.partition}
        connection.execute(insert(schema.collection).values(values | {"table_name": collection.table}))
        for chunk in chunks(rows, 500):
            connection.execute(insert(schema.frame).values(chunk))
    refresh_index(archive, collection)
    # The map comes first; a large collection gets its mosaic in a second rebuild.
    publish_map(archive, collection)
    metadata = refresh_overview_mosaic(archive, collection).metadata or {}
    assert metadata.get("frames_read") == synthetic.count, (
        f"The mosaic of {collection.name} does not show all frames: {metadata}."
    )
    publish_map(archive, collection)


def features(synthetic: SyntheticCollection, cog: SampleCog, bucket: str) -> list[dict[str, object]]:
    """The frames as GeoJSON features for MosaicJSON: footprint in EPSG:4326, and the property `path`."""
    return [
        {
            "type": "Feature",
            "properties": {"path": f"/vsis3/{bucket}/{frame.cog_key}"},
            "geometry": rasterio.warp.transform_geom("EPSG:3857", "EPSG:4326", mapping(_move(cog.outline, corner).geoms[0])),
        }
        for frame, corner in synthetic.frames()
    ]


def _move(region: MultiPolygon, corner: tuple[float, float]) -> MultiPolygon:
    return translate(region, corner[0] - _WEST, corner[1] - _NORTH)


def _row(cog: SampleCog, frame: Frame, corner: tuple[float, float]) -> dict[str, object]:
    product = {
        "content": frame.stem,
        "profile": PROFILES["bw"].hash("cog"),
        "size": len(cog.data),
        "version": "1",
        "made_by": "benchmark",
    }
    return {
        "id": frame.id, "shard": frame.collection.shard, "collection": frame.collection.name, "partition": frame.partition,
        "source_key": frame.cog_key, "source_version": "1", "content_hash": frame.stem, "products": {"cog": product},
        "width": SIDE, "height": SIDE, "valid_share": cog.valid_share, "footprint": from_shape(_move(cog.outline, corner), 3857),
        "interior": from_shape(_move(cog.interior, corner), 3857),
        "served_key": frame.cog_key, "public_version": "1", "deleted": False,
    }  # fmt: skip
