"""A collection as runs of its frames leave it (COGs in the bucket, rows in the frame table), and its map by the real mapserv.

mapserv runs by CGI, one process per map, so it caches nothing between maps.
"""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import rasterio.shutil
from affine import Affine
from geoalchemy2.shape import from_shape
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry import MultiPolygon, box
from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert

from ls4_assets.assets.overview_mosaic import refresh_overview_mosaic
from ls4_assets.db import overview_mosaics, schema, tile_index
from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.local.state import find_free_port
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overview_grid import Box
from ls4_assets_tests.integration.serving_fixtures import IndexDatabase
from ls4_assets_tests.rasters import NORTH, WEST, Pixels, write_tif
from mapserver.config import MAPSERV, write_config
from mapserver.mapfile import MapfileContext, render, validate_mapfile
from resources.archive import Archive

COLLECTION = Collection("Bastrop", "USDA_1958", "frames")


@dataclass
class MosaicArchive:
    """An archive with one collection, `COLLECTION`. `home` is a world-readable folder."""

    archive: Archive
    home: Path
    cog_count: int = 0

    def put(self, stem: str, east: float, south: float, pixels: Pixels, mask: NDArray[np.bool_] | None = None) -> Frame:
        """Add or replace a frame, with a COG under its own key: 1 m per pixel, `east` and `south` meters from the corner."""
        film_type: FilmType = "nc" if len(pixels) == 3 else "bw"
        frame, (height, width) = Frame(COLLECTION, film_type, stem), pixels.shape[1:]
        self.cog_count += 1
        key = f"{frame.served_folder}{self.cog_count}.tif"
        plain, cog = self.home / "plain.tif", self.home / "cog.tif"
        write_tif(plain, pixels, mask=mask, transform=Affine(1, 0, WEST + east, 0, -1, NORTH - south))
        with gdal_env():
            rasterio.shutil.copy(plain, cog, driver="COG", compress="JPEG" if film_type == "nc" else "DEFLATE")
        self.archive.storage.upload(cog, key)
        outline = box(WEST + east, NORTH - south - height, WEST + east + width, NORTH - south)
        values = {
            "collection": COLLECTION.name, "shard": COLLECTION.shard, "partition": frame.partition,
            "source_key": key, "source_version": key, "content_hash": key,
            "products": {"cog": {"profile": "p", "content": key}}, "width": width, "height": height,
            "valid_share": 1.0, "footprint": from_shape(MultiPolygon([outline]), 3857), "served_key": key, "deleted": False,
        }  # fmt: skip
        row = insert(schema.frame).values(id=frame.id, **values)
        row = row.on_conflict_do_update(index_elements=["id"], set_=values | {"revision": schema.frame.c.revision + 1})
        names = {"name": COLLECTION.name, "shard": COLLECTION.shard, "partition": COLLECTION.partition}
        with self.archive.database.begin() as connection:
            connection.execute(
                insert(schema.collection)
                .values(**names, table_name=COLLECTION.table, published_at=text("now()"))
                .on_conflict_do_nothing()
            )
            connection.execute(row)
        return frame

    def remove(self, frame: Frame) -> None:
        with self.archive.database.begin() as connection:
            values = {"deleted": True, "revision": schema.frame.c.revision + 1}
            connection.execute(schema.frame.update().where(schema.frame.c.id == frame.id).values(values))

    def index(self) -> None:
        """Refresh the tile index as the asset `tile_index` does."""
        with self.archive.database.begin() as connection:
            result = tile_index.refresh(connection, COLLECTION, self.archive.storage, "http://maps.test/archive")
            for removed in result.removed:
                connection.execute(schema.frame.delete().where(schema.frame.c.id == removed.id))

    def rebuild(self, *, force: bool = False) -> dict[str, object]:
        """Refresh index and mosaic. Returns the metadata of the mosaic."""
        self.index()
        return dict(refresh_overview_mosaic(self.archive, COLLECTION, force=force).metadata or {})

    def mosaics(self) -> list[str]:
        """Returns the keys of the mosaics in the bucket."""
        return [
            stored.key for stored in self.archive.storage.list(f"derived/{COLLECTION.name}/") if "/overview_mosaic-" in stored.key
        ]

    def row(self) -> dict[str, object] | None:
        """Returns the row of the mosaic on the map."""
        with self.archive.database.connect() as connection:
            row = connection.execute(select(schema.overview_mosaics)).first()
        return dict(row._mapping) if row else None

    def state(self) -> overview_mosaics.MosaicState:
        with self.archive.database.begin() as connection:
            return overview_mosaics.load_state(connection, COLLECTION)

    def publish(self) -> None:
        """Write the mapfile as the asset `mapfile` does."""
        with self.archive.database.connect() as connection:
            extent = tile_index.load_extent(connection, COLLECTION)
            resolution = overview_mosaics.load_resolution_on_map(connection, COLLECTION)
        assert extent
        mapfile = render(
            MapfileContext(
                COLLECTION.name,
                COLLECTION.map_name,
                COLLECTION.title,
                COLLECTION.table,
                extent,
                self.archive.settings.archive_description.capabilities,
                overview_resolution=resolution,
            )
        )
        assert validate_mapfile(mapfile) == []
        (self.home / "mapfiles" / f"{COLLECTION.table}.map").write_text(mapfile)

    def map(self, extent: Box, resolution: float, **parameters: str) -> NDArray[np.uint8]:
        """Returns RGBA pixels of an extent in EPSG:3857 at `resolution` meters per pixel."""
        size = {"WIDTH": round((extent[2] - extent[0]) / resolution), "HEIGHT": round((extent[3] - extent[1]) / resolution)}
        query = {"LAYERS": COLLECTION.name, "SRS": "EPSG:3857", "BBOX": ",".join(map(str, extent)), **size, **parameters}
        return self.get_map(**{name: str(value) for name, value in query.items()})

    def get_map(self, **parameters: str) -> NDArray[np.uint8]:
        fixed = {"map": f"{COLLECTION.table}.map", "SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "STYLES": ""}
        query = fixed | {"FORMAT": "image/png", "TRANSPARENT": "TRUE"} | parameters
        conf = self.home / "serving" / "conf"
        environment = {
            "REQUEST_METHOD": "GET",
            "QUERY_STRING": urlencode(query),
            "MAPSERVER_CONFIG_FILE": str(conf / "mapserver.conf"),
            "PGSERVICEFILE": str(conf / "pg_service.conf"),
        }
        result = subprocess.run(
            [MAPSERV], env=environment, cwd=self.home / "mapfiles", capture_output=True, check=True, timeout=120
        )
        headers, _, body = result.stdout.partition(b"\r\n\r\n")
        assert b"image/png" in headers, body
        return np.asarray(Image.open(BytesIO(body)).convert("RGBA"))


@contextmanager
def mosaic_archive(
    database: IndexDatabase, home: Path, storage: str, gdal_options: Mapping[str, str], **overrides: str
) -> Iterator[MosaicArchive]:
    """An empty archive, whose database rows are deleted at the end."""
    settings = {
        "storage": storage,
        "database_url": database.owner.url.render_as_string(hide_password=False),
        "public_url": "http://maps.test/archive",
        "map_url": "http://maps.test",
    }
    (home / "mapfiles").mkdir()
    write_config(
        home / "serving",
        port=find_free_port(),
        mapfiles_dir=home / "mapfiles",
        database=database.service,
        gdal_options=gdal_options,
    )
    archive = Archive(overrides=settings | overrides)
    try:
        yield MosaicArchive(archive, home)
    finally:
        with archive.database.begin() as connection:
            connection.execute(text(f"DROP TABLE IF EXISTS public.{COLLECTION.table}"))
            connection.execute(text("TRUNCATE ls4.source, ls4.frame, ls4.collection, overview_mosaics CASCADE"))
