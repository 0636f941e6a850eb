"""One new frame in a collection of so many: ours, stage by stage, and the legacy way on the same files.

The frames of the collection are rows as a batch leaves them, and real COGs at their places on the ground: small ones (512 px),
for which the rows claim the pixels of a real scan, so that the overview mosaic is as large as that of a real survey.
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
from benchmarks.scale_bench import Watch
from ls4_assets.assets import checks
from ls4_assets.assets import collections as assets
from ls4_assets.assets.overview_mosaic import refresh_overview_mosaic
from ls4_assets.db import frames as records
from ls4_assets.db.chunks import chunks
from ls4_assets.db.frames import Facts, Product, SourceRecord
from ls4_assets.db.schema import WEB_MERCATOR, SourceState, collection, frame, source
from ls4_assets.db.tile_index import served_root
from ls4_assets.domain.names import STEPS, Collection, Frame
from ls4_assets.domain.profiles import BW
from ls4_assets.operations.status import collect
from ls4_assets.publishing.exports import format_version
from ls4_assets.publishing.rebuilds import due_collections
from ls4_assets.raster.frame import process, product_path
from ls4_assets.raster.source import Limits
from resources.archive import Archive

_WEST, _NORTH = -10_880_000.0, 3_540_000.0
_COG_SIDE = 512
# A scan of a nine inch print at 800 dpi, and the ground that it shows.
_SCAN_SIDE = 7_200
_GROUND = 0.8 * _SCAN_SIDE
# Photographs of a flight overlap by 60 %.
_STEP = 0.4 * _GROUND
_NEW_FRAMES = 3

Stages = dict[str, float]


def measure_collection(count: int) -> dict[str, Stages]:
    """Seconds by stage for one frame more, `ours` and `legacy`; the median of three frames for ours."""
    archive = Archive()
    of = Collection("Travis", f"USDA_{1930 + len(str(count))}", "frames")
    survey = _Survey(archive, of, count)
    survey.lay_out()
    _bring_up(archive, of)
    rounds = [_one_more(archive, survey, count + number) for number in range(_NEW_FRAMES)]
    ours = {stage: statistics.median(one[stage] for one in rounds) for stage in rounds[0]}
    ours["all"] = statistics.median(sum(one.values()) for one in rounds)
    return {"ours": ours, "legacy": _legacy(archive, survey)}


@dataclass(frozen=True)
class _Survey:
    """`count` overlapping frames in a square; those beyond `count` lie in its middle."""

    archive: Archive
    of: Collection
    count: int

    def lay_out(self) -> None:
        """COGs and rows of all frames, none of them indexed."""
        for number in range(self.count):
            self._write_cog(number)
        with self.archive.database.begin() as connection:
            of = self.of
            named = {"name": of.name, "shard": of.shard, "partition": of.partition, "table_name": of.table}
            connection.execute(insert(collection).values(named))
            for some in chunks(range(self.count), 1000):
                connection.execute(insert(source), [self._source_row(number) for number in some])
                connection.execute(insert(frame), [self._frame_row(number) for number in some])
        with self.archive.database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE ls4.source"))
            connection.execute(text("VACUUM ANALYZE ls4.frame"))

    def publish(self, number: int) -> None:
        """One frame as its worker publishes it."""
        self._write_cog(number)
        one, row = self._frame(number), self._source_row(number)
        facts: Facts = {"source_crs": "EPSG:3857", "valid_share": 1.0, "width": _SCAN_SIDE, "height": _SCAN_SIDE}
        facts["footprint"] = self._footprint(number).wkb
        made_from = SourceRecord(row["key"], row["version"], row["size"], (), 1)
        with self.archive.database.begin() as connection:
            connection.execute(insert(source).values(row))
            records.publish(connection, one, made_from, "0" * 64, _products(), facts, one.cog_key, None, True)

    def _frame(self, number: int) -> Frame:
        return Frame(self.of, "bw", f"02-08-60_{number // 1000 + 1}-{number % 1000 + 1}")

    def _corner(self, number: int) -> tuple[float, float]:
        across = math.ceil(math.sqrt(self.count))
        if number >= self.count:
            middle = across // 2 + 0.25 * (number - self.count)
            return _WEST + _STEP * middle, _NORTH - _STEP * middle
        return _WEST + _STEP * (number % across), _NORTH - _STEP * (number // across)

    def _footprint(self, number: int) -> MultiPolygon:
        west, north = self._corner(number)
        return MultiPolygon([box(west, north - _GROUND, west + _GROUND, north)])

    def _write_cog(self, number: int) -> None:
        path = Path(self.archive.storage.gdal_path(self._frame(number).cog_key))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_TEMPLATE.at(*self._corner(number)))

    def _source_row(self, number: int) -> dict[str, object]:
        one = self._frame(number)
        return {
            "key": f"{one.folder}/georef/{one.stem}.tif", "state": SourceState.DONE, "version": "1", "size": _SCAN_SIDE**2,
            "frame": one.id, "shard": self.of.shard, "collection": self.of.name, "partition": one.partition,
        }  # fmt: skip

    def _frame_row(self, number: int) -> dict[str, object]:
        one = self._frame(number)
        return {
            "id": one.id, "shard": self.of.shard, "collection": self.of.name, "partition": one.partition,
            "source_key": f"{one.folder}/georef/{one.stem}.tif", "source_version": "1", "content_hash": "0" * 64,
            "products": {step: asdict(product) for step, product in _products().items()}, "source_crs": "EPSG:3857",
            "valid_share": 1.0, "width": _SCAN_SIDE, "height": _SCAN_SIDE, "served_key": one.cog_key, "public_version": "1",
            "footprint": WKBElement(self._footprint(number).wkb, srid=WEB_MERCATOR),
        }  # fmt: skip


def _products() -> dict[str, Product]:
    return {step: Product("0" * 64, BW.hash(step), 50_000_000, "1", "run") for step in STEPS}


class _Template:
    """One real COG, to be put anywhere: only its tie point is another."""

    def __init__(self) -> None:
        self._bytes: bytes | None = None

    def at(self, west: float, north: float) -> bytes:
        if self._bytes is None:
            self._bytes = small_cog()
        made_at, wanted = struct.pack("<6d", 0, 0, 0, _WEST, _NORTH, 0), struct.pack("<6d", 0, 0, 0, west, north, 0)
        assert self._bytes.count(made_at) == 1, "the COG's tie point is not where it was; look at how cog_assembly writes it"
        return self._bytes.replace(made_at, wanted)


_TEMPLATE = _Template()


def small_cog() -> bytes:
    """By our own chain; in few shades of grey, so that ten thousand of them need no more than a gigabyte."""
    metres = _GROUND / _COG_SIDE
    place = {"crs": "EPSG:3857", "transform": Affine(metres, 0, _WEST, 0, -metres, _NORTH)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photograph(folder / "photograph.tif", _COG_SIDE, 1, collar=False)
        with rasterio.open(folder / "photograph.tif") as photograph:
            pixels = np.maximum(photograph.read() // 16 * 16, 1)
        shape = {"width": _COG_SIDE, "height": _COG_SIDE, "count": 1, "dtype": "uint8"}
        with rasterio.open(folder / "scan.tif", "w", driver="GTiff", **shape, **place) as scan:
            scan.write(pixels)
        process(folder / "scan.tif", folder, "scan", "bw", BW, Limits(_COG_SIDE**2, 10**9))
        return product_path(folder, "scan", "cog").read_bytes()


def _bring_up(archive: Archive, of: Collection) -> None:
    """The rebuilds before the one that is measured: index and map, then the mosaic, which a large collection gets afterwards."""
    for _ in range(2):
        assets.refresh_index(archive, of)
        _refresh_mosaic(archive, of)
        assets.publish_map(archive, of)


def _one_more(archive: Archive, survey: _Survey, number: int) -> Stages:
    """From the row of a new frame to the map that shows it and the status that tells of it, without the start of a run."""
    of, watch = survey.of, Watch()
    survey.publish(number)
    with watch.on("due"):
        due = due_collections(
            archive.database, archive.settings.public_url, served_root(archive.storage), format_version(archive.settings)
        )
    assert of in [one.collection for one in due], f"{of.name} is not due after a new frame; look at due_collections"
    with _files_timed(watch), watch.on("tile_index"):
        assets.refresh_index(archive, of)
    watch.seconds["tile_index"] -= watch.seconds["files"]
    with watch.on("check"):
        audited = checks.audited_index(archive, of)
    assert audited.passed, f"the index does not add up: {audited.description}"
    with watch.on("overview_mosaic"):
        _refresh_mosaic(archive, of)
    with watch.on("mapfile"):
        assets.publish_map(archive, of)
    with watch.on("status"):
        status = collect(archive.settings, of.name).collections[0]
    assert (status.indexed, status.at_rest) == (number + 1, True), f"the status does not show the new frame: {status}"
    return watch.seconds


def _refresh_mosaic(archive: Archive, of: Collection) -> None:
    told = refresh_overview_mosaic(archive, of).metadata or {}
    assert not {"not_made", "left_out"} & set(told), f"the overview mosaic was not made: {told}"


@contextmanager
def _files_timed(watch: Watch) -> Iterator[None]:
    publish = assets._publish_files

    def timed(archive: Archive, of: Collection) -> list[str]:
        with watch.on("files"):
            return publish(archive, of)

    with patch.object(assets, "_publish_files", timed):
        yield


def _legacy(archive: Archive, survey: _Survey) -> Stages:
    """What lambda-s4 did for each new frame: list the collection's COGs, open each for its bounds, replace table and shapefile.

    On a local disk, where opening a COG costs no request over the network.
    """
    watch = Watch()
    with watch.on("list"):
        found = [found.key for found in archive.storage.list(f"{survey.of.folder('bw')}/cog/") if found.key.endswith(".tif")]
    assert len(found) == survey.count + _NEW_FRAMES, f"{len(found)} COGs are listed of {survey.count + _NEW_FRAMES}"
    with watch.on("open"):
        bounds = []
        for key in found:
            with rasterio.open(archive.storage.gdal_path(key)) as cog:
                bounds.append(box(*cog.bounds))
    rows = {"location": [f"/vsis3/ls4/{key}" for key in found], "src_srs": "EPSG:3857"}
    index = geopandas.GeoDataFrame(rows, geometry=bounds, crs="EPSG:3857")
    with watch.on("table"):
        index.to_postgis(f"legacy_{survey.of.table}", archive.database, if_exists="replace")
    with watch.on("files"), tempfile.TemporaryDirectory() as folder:
        index.to_file(Path(folder) / "index.shp", engine="pyogrio")
    return watch.seconds | {"all": sum(watch.seconds.values())}
