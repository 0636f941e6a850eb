"""A collection as the frames' runs leave it (COGs in the bucket, rows in the frame table), and its map by the real mapserv.

mapserv runs once for each map, by CGI: nothing that it read for one map is known to it at the next.
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
from ls4_assets.db import overview_mosaics, tile_index
from ls4_assets.db.schema import collection, frame
from ls4_assets.domain.names import Collection, FilmType, Frame
from ls4_assets.local.state import free_port
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets.raster.overview_grid import Box
from ls4_assets_tests.integration.serving_fixtures import IndexDatabase
from ls4_assets_tests.rasters import NORTH, WEST, Pixels, write_tif
from mapserver.config import MAPSERV, write_config
from mapserver.mapfile import MapfileContext, findings, render
from resources.archive import Archive

OF = Collection("Bastrop", "USDA_1958", "frames")


@dataclass
class Shelf:
    """`archive` holds one collection, `OF`; `home` is a folder that everybody may enter."""

    archive: Archive
    home: Path
    written: int = 0

    def put(self, stem: str, east: float, south: float, pixels: Pixels, mask: NDArray[np.bool_] | None = None) -> Frame:
        """A frame is made, or made anew under a key of its own: 1 m a pixel, so far from the corner of all."""
        band: FilmType = "nc" if len(pixels) == 3 else "bw"
        made, (height, width) = Frame(OF, band, stem), pixels.shape[1:]
        self.written += 1
        key = f"{made.served_folder}{self.written}.tif"
        plain, cog = self.home / "plain.tif", self.home / "cog.tif"
        write_tif(plain, pixels, mask=mask, transform=Affine(1, 0, WEST + east, 0, -1, NORTH - south))
        with gdal_env():
            rasterio.shutil.copy(plain, cog, driver="COG", compress="JPEG" if band == "nc" else "DEFLATE")
        self.archive.storage.upload(cog, key)
        outline = box(WEST + east, NORTH - south - height, WEST + east + width, NORTH - south)
        values = {
            "collection": OF.name, "shard": OF.shard, "partition": made.partition, "source_key": key, "source_version": key,
            "content_hash": key, "products": {"cog": {"profile": "p", "content": key}}, "width": width, "height": height,
            "valid_share": 1.0, "footprint": from_shape(MultiPolygon([outline]), 3857), "served_key": key, "deleted": False,
        }  # fmt: skip
        row = insert(frame).values(id=made.id, **values)
        row = row.on_conflict_do_update(index_elements=["id"], set_=values | {"revision": frame.c.revision + 1})
        named = {"name": OF.name, "shard": OF.shard, "partition": OF.partition, "table_name": OF.table}
        with self.archive.database.begin() as connection:
            connection.execute(insert(collection).values(published_at=text("now()"), **named).on_conflict_do_nothing())
            connection.execute(row)
        return made

    def remove(self, gone: Frame) -> None:
        with self.archive.database.begin() as connection:
            values = {"deleted": True, "revision": frame.c.revision + 1}
            connection.execute(frame.update().where(frame.c.id == gone.id).values(values))

    def index(self) -> None:
        """What the asset tile_index does to the table."""
        with self.archive.database.begin() as connection:
            done = tile_index.refresh(connection, OF, self.archive.storage, "http://maps.test/archive")
            for gone in done.leaving:
                connection.execute(frame.delete().where(frame.c.id == gone.id))

    def rebuild(self, *, force: bool = False) -> dict[str, object]:
        """Index and mosaic are brought up to date; what was told of the mosaic."""
        self.index()
        return dict(refresh_overview_mosaic(self.archive, OF, force=force).metadata or {})

    def mosaics(self) -> list[str]:
        """Keys of the mosaics in the bucket."""
        return [stored.key for stored in self.archive.storage.list(f"derived/{OF.name}/") if "/overview_mosaic-" in stored.key]

    def row(self) -> dict[str, object] | None:
        """Of the mosaic on the map."""
        with self.archive.database.connect() as connection:
            found = connection.execute(select(overview_mosaics.overview_mosaics)).first()
        return dict(found._mapping) if found else None

    def state(self) -> overview_mosaics.State:
        with self.archive.database.begin() as connection:
            return overview_mosaics.state(connection, OF)

    def publish(self) -> None:
        """What the asset mapfile does."""
        with self.archive.database.connect() as connection:
            extent, pixel = tile_index.extent(connection, OF), overview_mosaics.resolution_on_map(connection, OF)
        assert extent
        written = render(MapfileContext(OF.name, OF.map_name, OF.title, OF.table, extent, overview_resolution=pixel))
        assert findings(written) == []
        (self.home / "mapfiles" / f"{OF.table}.map").write_text(written)

    def map(self, extent: Box, resolution: float, **more: str) -> NDArray[np.uint8]:
        """RGBA of an extent at `resolution` metres a pixel."""
        size = {"WIDTH": round((extent[2] - extent[0]) / resolution), "HEIGHT": round((extent[3] - extent[1]) / resolution)}
        asked = {"LAYERS": OF.name, "SRS": "EPSG:3857", "BBOX": ",".join(map(str, extent)), **size, **more}
        return self.get_map(**{name: str(value) for name, value in asked.items()})

    def get_map(self, **asked: str) -> NDArray[np.uint8]:
        fixed = {"map": f"{OF.table}.map", "SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "STYLES": ""}
        query = fixed | {"FORMAT": "image/png", "TRANSPARENT": "TRUE"} | asked
        conf = self.home / "serving" / "conf"
        environment = {
            "REQUEST_METHOD": "GET",
            "QUERY_STRING": urlencode(query),
            "MAPSERVER_CONFIG_FILE": str(conf / "mapserver.conf"),
            "PGSERVICEFILE": str(conf / "pg_service.conf"),
        }
        done = subprocess.run(
            [MAPSERV], env=environment, cwd=self.home / "mapfiles", capture_output=True, check=True, timeout=120
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        assert b"image/png" in head, body
        return np.asarray(Image.open(BytesIO(body)).convert("RGBA"))


@contextmanager
def shelf(
    database: IndexDatabase, home: Path, storage: str, gdal_options: Mapping[str, str], **overrides: str
) -> Iterator[Shelf]:
    """An empty one, emptied again at the end."""
    settings = {
        "storage": storage,
        "database_url": database.owner.url.render_as_string(hide_password=False),
        "public_url": "http://maps.test/archive",
        "map_url": "http://maps.test",
    }
    (home / "mapfiles").mkdir()
    write_config(
        home / "serving",
        port=free_port(),
        mapfiles_dir=home / "mapfiles",
        database=database.service,
        gdal_options=gdal_options,
    )
    archive = Archive(overrides=settings | overrides)
    try:
        yield Shelf(archive, home)
    finally:
        with archive.database.begin() as connection:
            connection.execute(text(f"DROP TABLE IF EXISTS public.{OF.table}"))
            connection.execute(text("TRUNCATE ls4.source, ls4.frame, ls4.collection, overview_mosaics CASCADE"))
