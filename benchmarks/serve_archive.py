"""The archive that the serving benchmark looks at: collections of overlapping frames on S3, with the platform's index and map.

All frames are one scan made into a COG by the platform, put down at other places: sixty per cent of overlap along a flight line,
thirty between lines. Index, overview mosaic and mapfile are made by the functions of their assets.
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
from ls4_assets.db.chunks import chunks
from ls4_assets.db.schema import collection, frame
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.profiles import BW
from ls4_assets.raster.frame import process, product_path
from ls4_assets.raster.overview_grid import resolution
from ls4_assets.raster.source import Limits
from resources.archive import Archive

SIDE = 2048
NATIVE_ZOOM = 17
PIXEL = resolution(NATIVE_ZOOM)
_ALONG, _ACROSS = 0.4 * SIDE * PIXEL, 0.7 * SIDE * PIXEL
_WEST, _NORTH = -10_880_000.0, 3_540_000.0
# Far from one another: no view of one shows anything of another.
_APART = 400_000.0
_LINE = {10: 10, 100: 10, 1000: 25}
_UPLOADS = 8

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scan:
    """A COG with its upper left corner at `_WEST`, `_NORTH`, and the outline of its valid pixels there."""

    data: bytes
    outline: MultiPolygon
    valid_share: float

    def at(self, west: float, north: float) -> bytes:
        """The same COG at another place: its tie point is changed, and nothing else."""
        here, there = (struct.pack("<2d", *place) for place in ((_WEST, _NORTH), (west, north)))
        assert self.data.count(here) == 1, "The COG does not hold its tie point once: place it by GDAL instead."
        return self.data.replace(here, there)


@dataclass(frozen=True)
class Survey:
    """A collection of `count` frames; `number` tells its place and its name."""

    count: int
    number: int

    @cached_property
    def of(self) -> Collection:
        return Collection("Travis", f"USDA_{1950 + self.number}", "frames")

    @cached_property
    def places(self) -> list[tuple[float, float]]:
        """Upper left corner of each frame."""
        line = _LINE.get(self.count, min(self.count, 10))
        north = _NORTH + self.number * _APART
        return [(_WEST + number % line * _ALONG, north - number // line * _ACROSS) for number in range(self.count)]

    @property
    def extent(self) -> Box:
        """Of all frames, collars included."""
        across, down = zip(*self.places, strict=True)
        return min(across), min(down) - SIDE * PIXEL, max(across) + SIDE * PIXEL, max(down)

    def frames(self) -> Iterator[tuple[Frame, tuple[float, float]]]:
        for number, place in enumerate(self.places):
            yield Frame(self.of, "bw", f"02-08-{50 + self.number}_{1 + number // 100}-{1 + number % 100}"), place


def make_scan() -> Scan:
    """One photograph in its collar, through the platform's three steps."""
    with tempfile.TemporaryDirectory(prefix="ls4-benchmark-") as folder:
        source, work = Path(folder) / "scan.tif", Path(folder) / "work"
        write_photograph(source, SIDE, 1, collar=True)
        with rasterio.open(source, "r+") as placed:
            placed.transform = Affine(PIXEL, 0, _WEST, 0, -PIXEL, _NORTH)
        made = process(source, work, "scan", "bw", BW, Limits())
        assert made.footprint_wkb
        assert made.valid_share
        return Scan(product_path(work, "scan", "cog").read_bytes(), from_wkb(made.footprint_wkb), made.valid_share)


def publish(archive: Archive, scan: Scan, survey: Survey) -> None:
    """Frames into bucket and database as their runs leave them; then index, map and overview mosaic as the assets make them."""
    of, storage = survey.of, archive.storage
    frames = list(survey.frames())
    with ThreadPoolExecutor(_UPLOADS) as uploads:
        list(uploads.map(lambda one: storage.put(one[0].cog_key, scan.at(*one[1])), frames))
    rows = [_row(scan, made, place) for made, place in frames]
    with archive.database.begin() as connection:
        named = {"name": of.name, "shard": of.shard, "partition": of.partition, "table_name": of.table}
        connection.execute(insert(collection).values(named))
        for some in chunks(rows, 500):
            connection.execute(insert(frame).values(some))
    refresh_index(archive, of)
    # The map of many frames comes first, and the mosaic by a second rebuild.
    publish_map(archive, of)
    told = refresh_overview_mosaic(archive, of).metadata or {}
    assert told.get("frames_read") == survey.count, f"The mosaic of {of.name} does not show all frames: {told}."
    publish_map(archive, of)


def features(survey: Survey, scan: Scan, bucket: str) -> list[dict[str, object]]:
    """The frames as GeoJSON, for MosaicJSON: footprint in degrees, and `path`."""
    return [
        {
            "type": "Feature",
            "properties": {"path": f"/vsis3/{bucket}/{made.cog_key}"},
            "geometry": rasterio.warp.transform_geom("EPSG:3857", "EPSG:4326", mapping(_outline(scan, place).geoms[0])),
        }
        for made, place in survey.frames()
    ]


def _outline(scan: Scan, place: tuple[float, float]) -> MultiPolygon:
    return translate(scan.outline, place[0] - _WEST, place[1] - _NORTH)


def _row(scan: Scan, made: Frame, place: tuple[float, float]) -> dict[str, object]:
    product = {"content": made.stem, "profile": BW.hash("cog"), "size": len(scan.data), "version": "1", "made_by": "benchmark"}
    return {
        "id": made.id, "shard": made.collection.shard, "collection": made.collection.name, "partition": made.partition,
        "source_key": made.cog_key, "source_version": "1", "content_hash": made.stem, "products": {"cog": product},
        "width": SIDE, "height": SIDE, "valid_share": scan.valid_share, "footprint": from_shape(_outline(scan, place), 3857),
        "served_key": made.cog_key, "public_version": "1", "deleted": False,
    }  # fmt: skip
