"""Adding one frame to a collection: with ls4, stage by stage, and with the legacy way, on the same files.

The frames of the collection are rows as after a batch, and real COGs at their positions. The COGs are small (512 px), but their
rows have the size of a real scan, so that the overview mosaic is as large as that of a real survey.
"""

import math
import statistics
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import geopandas
import numpy as np
import rasterio
from affine import Affine
from geoalchemy2.elements import WKBElement
from shapely import MultiPolygon, box
from sqlalchemy import insert, text

from benchmarks.photographs import write_photograph
from benchmarks.scale_bench import Stopwatch
from ls4_assets.assets import checks
from ls4_assets.assets import collections as assets
from ls4_assets.assets.overview_mosaic import refresh_overview_mosaic
from ls4_assets.db import frames as records
from ls4_assets.db import schema
from ls4_assets.db.frames import FrameFacts, Product, SourceRecord
from ls4_assets.db.schema import WEB_MERCATOR, SourceState
from ls4_assets.db.tile_index import served_root
from ls4_assets.domain.chunks import chunks
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.products import STEPS, Step
from ls4_assets.domain.profiles import PROFILES
from ls4_assets.operations.status import collect
from ls4_assets.publishing.exports import format_version
from ls4_assets.publishing.maps import map_format
from ls4_assets.publishing.rebuilds import pending_rebuilds
from ls4_assets.raster.frame import process, product_path
from ls4_assets.raster.source import Limits
from resources.archive import Archive

_WEST, _NORTH = -10_880_000.0, 3_540_000.0
_COG_SIDE_PX = 512
# A scan of a nine inch print at 800 dpi, and the ground that it covers.
_SCAN_SIDE_PX = 7_200
_GROUND_METERS = 0.8 * _SCAN_SIDE_PX
# Photographs along a flight line overlap by 60%.
_STEP_METERS = 0.4 * _GROUND_METERS
_NEW_FRAMES = 3

Stages = dict[str, float]


def measure_collection(count: int) -> dict[str, Stages]:
    """Seconds by stage for adding one frame, with `ours` (the median of three frames) and `legacy`."""
    archive = Archive()
    collection = Collection("Travis", f"USDA_{1930 + len(str(count))}", "frames")
    synthetic = _SyntheticCollection(archive, collection, count)
    synthetic.create()
    _rebuild_twice(archive, collection)
    rounds = [_add_frame(archive, synthetic, count + number) for number in range(_NEW_FRAMES)]
    ours = {stage: statistics.median(stages[stage] for stages in rounds) for stage in rounds[0]}
    ours["all"] = statistics.median(sum(stages.values()) for stages in rounds)
    return {"ours": ours, "legacy": _measure_legacy(archive, synthetic)}


@dataclass(frozen=True)
class _SyntheticCollection:
    """`count` overlapping frames in a square; additional frames are in its center."""

    archive: Archive
    collection: Collection
    count: int

    def create(self) -> None:
        """Write COGs and rows of all frames; none of them is indexed."""
        for number in range(self.count):
            self._write_cog(number)
        with self.archive.database.begin() as connection:
            collection = self.collection
            values = {"name": collection.name, "shard": collection.shard, "partition": collection.partition}
            connection.execute(insert(schema.collection).values(values | {"table_name": collection.table}))
            for numbers in chunks(range(self.count), 1000):
                connection.execute(insert(schema.source), [self._source_row(number) for number in numbers])
                connection.execute(insert(schema.frame), [self._frame_row(number) for number in numbers])
        with self.archive.database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE ls4.source"))
            connection.execute(text("VACUUM ANALYZE ls4.frame"))

    def publish(self, number: int) -> None:
        """Publish one frame as its worker does."""
        self._write_cog(number)
        frame = self._frame(number)
        facts: FrameFacts = {"source_crs": "EPSG:3857", "valid_share": 1.0, "width": _SCAN_SIDE_PX, "height": _SCAN_SIDE_PX}
        facts["footprint"] = self._footprint(number).wkb
        source = SourceRecord(f"{frame.folder}/georef/{frame.stem}.tif", "1", _SCAN_SIDE_PX**2, (), 1)
        with self.archive.database.begin() as connection:
            connection.execute(insert(schema.source).values(self._source_row(number)))
            records.publish(connection, frame, source, "0" * 64, _products(), facts, frame.cog_key, None, True)

    def _frame(self, number: int) -> Frame:
        return Frame(self.collection, "bw", f"02-08-60_{number // 1000 + 1}-{number % 1000 + 1}")

    def _corner(self, number: int) -> tuple[float, float]:
        across = math.ceil(math.sqrt(self.count))
        if number >= self.count:
            center = across // 2 + 0.25 * (number - self.count)
            return _WEST + _STEP_METERS * center, _NORTH - _STEP_METERS * center
        return _WEST + _STEP_METERS * (number % across), _NORTH - _STEP_METERS * (number // across)

    def _footprint(self, number: int) -> MultiPolygon:
        west, north = self._corner(number)
        return MultiPolygon([box(west, north - _GROUND_METERS, west + _GROUND_METERS, north)])

    def _write_cog(self, number: int) -> None:
        path = Path(self.archive.storage.gdal_path(self._frame(number).cog_key))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_TEMPLATE.moved_to(*self._corner(number)))

    def _source_row(self, number: int) -> dict[str, object]:
        frame = self._frame(number)
        return {
            "key": f"{frame.folder}/georef/{frame.stem}.tif", "state": SourceState.DONE, "version": "1", "size": _SCAN_SIDE_PX**2,
            "frame": frame.id, "shard": self.collection.shard, "collection": self.collection.name, "partition": frame.partition,
        }  # fmt: skip

    def _frame_row(self, number: int) -> dict[str, object]:
        frame = self._frame(number)
        return {
            "id": frame.id, "shard": self.collection.shard, "collection": self.collection.name, "partition": frame.partition,
            "source_key": f"{frame.folder}/georef/{frame.stem}.tif", "source_version": "1", "content_hash": "0" * 64,
            "products": {step: asdict(product) for step, product in _products().items()}, "source_crs": "EPSG:3857",
            "valid_share": 1.0, "width": _SCAN_SIDE_PX, "height": _SCAN_SIDE_PX,
            "served_key": frame.cog_key, "public_version": "1",
            "footprint": WKBElement(self._footprint(number).wkb, srid=WEB_MERCATOR),
        }  # fmt: skip


def _products() -> dict[Step, Product]:
    return {step: Product("0" * 64, PROFILES["bw"].hash(step), 50_000_000, "1", "run") for step in STEPS}


class _Template:
    """One real COG that can be moved anywhere by changing its tie point."""

    def __init__(self) -> None:
        self._bytes: bytes | None = None

    def moved_to(self, west: float, north: float) -> bytes:
        if self._bytes is None:
            self._bytes = small_cog()
        original, moved = struct.pack("<6d", 0, 0, 0, _WEST, _NORTH, 0), struct.pack("<6d", 0, 0, 0, west, north, 0)
        assert self._bytes.count(original) == 1, "the COG must contain its tie point once; check cog_assembly"
        return self._bytes.replace(original, moved)


_TEMPLATE = _Template()


def small_cog() -> bytes:
    """A COG from the platform's own steps, with few gray levels, so that ten thousand of them need at most a gigabyte."""
    pixel_meters = _GROUND_METERS / _COG_SIDE_PX
    place = {"crs": "EPSG:3857", "transform": Affine(pixel_meters, 0, _WEST, 0, -pixel_meters, _NORTH)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photograph(folder / "photograph.tif", _COG_SIDE_PX, 1, collar=False)
        with rasterio.open(folder / "photograph.tif") as photograph:
            pixels = np.maximum(photograph.read() // 16 * 16, 1)
        shape = {"width": _COG_SIDE_PX, "height": _COG_SIDE_PX, "count": 1, "dtype": "uint8"}
        with rasterio.open(folder / "scan.tif", "w", driver="GTiff", **shape, **place) as scan:
            scan.write(pixels)
        process(folder / "scan.tif", folder, "scan", "bw", PROFILES["bw"], Limits(_COG_SIDE_PX**2, 10**9))
        return product_path(folder, "scan", "cog").read_bytes()


def _rebuild_twice(archive: Archive, collection: Collection) -> None:
    """Run the rebuilds before the measured one: index and map first, and the mosaic, which a large collection gets afterwards."""
    for _ in range(2):
        assets.refresh_index(archive, collection)
        _refresh_mosaic(archive, collection)
        assets.publish_map(archive, collection)


def _add_frame(archive: Archive, synthetic: _SyntheticCollection, number: int) -> Stages:
    """Seconds by stage from the row of a new frame to its map and its status, without the start of a run."""
    collection, watch = synthetic.collection, Stopwatch()
    synthetic.publish(number)
    settings = archive.settings
    with watch.measure("due"):
        formats = format_version(settings), map_format(settings)
        due = pending_rebuilds(archive.database, settings.public_url, served_root(archive.storage), *formats)
    assert collection in [rebuild.collection for rebuild in due], f"{collection.name} has no pending rebuild after a new frame"
    with _measured_files(watch), watch.measure("tile_index"):
        assets.refresh_index(archive, collection)
    watch.seconds["tile_index"] -= watch.seconds["files"]
    with watch.measure("check"):
        audited = checks.check_index_counts(archive, collection)
    assert audited.passed, f"the counts of the index do not match: {audited.description}"
    with watch.measure("overview_mosaic"):
        _refresh_mosaic(archive, collection)
    with watch.measure("mapfile"):
        assets.publish_map(archive, collection)
    with watch.measure("status"):
        status = collect(archive.settings, collection.name).collections[0]
    assert (status.indexed, status.is_complete) == (number + 1, True), f"the status does not show the new frame: {status}"
    return watch.seconds


def _refresh_mosaic(archive: Archive, collection: Collection) -> None:
    metadata = refresh_overview_mosaic(archive, collection).metadata or {}
    assert not {"not_built", "left_out"} & set(metadata), f"the overview mosaic was not built: {metadata}"


@contextmanager
def _measured_files(watch: Stopwatch) -> Iterator[None]:
    """Measure the part of `refresh_index` that publishes files."""
    publish = assets._publish_files

    def measured(archive: Archive, collection: Collection) -> list[str]:
        with watch.measure("files"):
            return publish(archive, collection)

    with patch.object(assets, "_publish_files", measured):
        yield


def _measure_legacy(archive: Archive, synthetic: _SyntheticCollection) -> Stages:
    """Seconds by stage for lambda-s4's work for each new frame: list the COGs, open each for its bounds, replace table and files.

    The COGs are on a local disk, where opening one needs no request over the network.
    """
    watch = Stopwatch()
    with watch.measure("list"):
        entries = archive.storage.list(f"{synthetic.collection.folder('bw')}/cog/")
        cog_keys = [entry.key for entry in entries if entry.key.endswith(".tif")]
    assert len(cog_keys) == synthetic.count + _NEW_FRAMES, f"{len(cog_keys)} of {synthetic.count + _NEW_FRAMES} COGs are listed"
    with watch.measure("open"):
        bounds = []
        for key in cog_keys:
            with rasterio.open(archive.storage.gdal_path(key)) as cog:
                bounds.append(box(*cog.bounds))
    rows = {"location": [f"/vsis3/ls4/{key}" for key in cog_keys], "src_srs": "EPSG:3857"}
    index = geopandas.GeoDataFrame(rows, geometry=bounds, crs="EPSG:3857")
    with watch.measure("table"):
        index.to_postgis(f"legacy_{synthetic.collection.table}", archive.database, if_exists="replace")
    with watch.measure("files"), tempfile.TemporaryDirectory() as folder:
        index.to_file(Path(folder) / "index.shp", engine="pyogrio")
    return watch.seconds | {"all": sum(watch.seconds.values())}
