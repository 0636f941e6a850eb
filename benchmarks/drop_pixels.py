"""The photographs of the drop benchmark, and the maps that show them.

A photograph is grain around one gray value, so a small map of its middle says which version of it is on the map.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from ls4_assets.local.map_check import PNG_SIGNATURE

# A point in Travis County in EPSG:3857.
_WEST, _NORTH = -10_880_000.0, 3_540_000.0
_GRAIN = 4.0
_DARKEST, _GRAYS, _TO_OTHER_GRAY = 40, 160, 80
# Much more than the mean of grain differs from its gray value, much less than the gray values of two versions differ.
_TOLERANCE = 15.0
_OPAQUE = 255
_MAP_PX = 32
# Of a map of many photographs, each is this wide; a square in its middle is compared.
_SMALL_PX, _SMALL_GAP_PX, _SAMPLE_PX = 16, 4, 5

Picture = NDArray[np.uint8]  # (rows, columns, red green blue alpha)
Bounds = tuple[float, float, float, float]  # left, bottom, right, top in EPSG:3857


@dataclass(frozen=True)
class Place:
    """A square in EPSG:3857, `span` meters wide."""

    left: float
    top: float
    span: float

    @property
    def middle(self) -> Bounds:
        """The bounds of the middle third."""
        third = self.span / 3
        return self.left + third, self.top - 2 * third, self.left + 2 * third, self.top - third


@dataclass(frozen=True)
class Photograph:
    """A tif to drop: its key, place, gray value, and side in pixels."""

    collection_name: str
    key: str
    place: Place
    gray: int
    side: int

    def with_other_pixels(self) -> "Photograph":
        gray = _DARKEST + (self.gray - _DARKEST + _TO_OTHER_GRAY) % _GRAYS
        return Photograph(self.collection_name, self.key, self.place, gray, self.side)

    def write(self, path: Path, seed: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        grain = np.random.default_rng(seed).normal(self.gray, _GRAIN, (1, self.side, self.side))
        pixel = self.place.span / self.side
        options = {
            "driver": "GTiff", "width": self.side, "height": self.side, "count": 1, "dtype": "uint8", "crs": "EPSG:3857",
            "transform": Affine(pixel, 0, self.place.left, 0, -pixel, self.place.top),
        }  # fmt: skip
        with rasterio.open(path, "w", **options) as target:
            target.write(np.clip(grain, 1, 254).astype(np.uint8))
        return path


@dataclass(frozen=True)
class Survey:
    """A collection of Travis County whose photographs are a grid of `columns` without overlap.

    `name`: such as `USDA_1958`. `span`: meters of a side of each, `side`: its pixels.
    """

    name: str
    columns: int
    span: float
    side: int

    @property
    def collection_name(self) -> str:
        return f"Travis_{self.name}_frames"

    def photograph(self, number: int) -> Photograph:
        step = self.span * (1 + _SMALL_GAP_PX / _SMALL_PX)
        place = Place(_WEST + number % self.columns * step, _NORTH - number // self.columns * step, self.span)
        key = f"bw/Travis/{self.name}/frames/georef/02-08-60_6-{100 + number}.tif"
        return Photograph(self.collection_name, key, place, _DARKEST + 37 * number % _GRAYS, self.side)


class Maps:
    """A client of the web front end. It asks for maps without a version, which no cache keeps."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = httpx.Client(timeout=30, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def get(self, collection_name: str, bounds: Bounds, width: int, height: int) -> Picture | None:
        """A GetMap of a collection; None when the answer is no picture."""
        parameters = {
            "map": f"/mapfiles/{collection_name.lower()}.map", "SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap",
            "LAYERS": collection_name, "STYLES": "", "SRS": "EPSG:3857", "BBOX": ",".join(f"{value:.3f}" for value in bounds),
            "WIDTH": str(width), "HEIGHT": str(height), "FORMAT": "image/png", "TRANSPARENT": "TRUE",
        }  # fmt: skip
        try:
            content = self._client.get(f"{self._address}/", params=parameters).content
        except httpx.HTTPError:
            return None
        if not content.startswith(PNG_SIGNATURE):
            return None
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))

    def shows(self, expected: Photograph) -> bool:
        """Whether the map shows this version of a photograph at its place."""
        picture = self.get(expected.collection_name, expected.place.middle, _MAP_PX, _MAP_PX)
        return picture is not None and _has_gray(picture, expected.gray)

    def shows_nothing(self, deleted: Photograph) -> bool:
        """Whether the map is transparent at the place of a photograph."""
        picture = self.get(deleted.collection_name, deleted.place.middle, _MAP_PX, _MAP_PX)
        return picture is not None and not picture[..., 3].any()

    def count_shown(self, grid: Sequence[Photograph]) -> int:
        """How many photographs of a grid one map of all of them shows."""
        places = [item.place for item in grid]
        left, top = min(place.left for place in places), max(place.top for place in places)
        right = max(place.left + place.span for place in places)
        bottom = min(place.top - place.span for place in places)
        meters = places[0].span / _SMALL_PX
        width, height = round((right - left) / meters), round((top - bottom) / meters)
        picture = self.get(grid[0].collection_name, (left, bottom, right, top), width, height)
        if picture is None:
            return 0
        shown = 0
        for item in grid:
            column, row = round((item.place.left - left) / meters), round((top - item.place.top) / meters)
            margin = (_SMALL_PX - _SAMPLE_PX) // 2
            rows, columns = (slice(start + margin, start + margin + _SAMPLE_PX) for start in (row, column))
            shown += _has_gray(picture[rows, columns], item.gray)
        return shown


def _has_gray(picture: Picture, gray: int) -> bool:
    return bool((picture[..., 3] == _OPAQUE).all() and abs(float(picture[..., 0].mean()) - gray) < _TOLERANCE)
