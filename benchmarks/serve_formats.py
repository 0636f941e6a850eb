"""Benchmark of the formats of tiles: `python -m benchmarks.serve formats [--json] [--quick]`.

It compares WebP, JPEG and PNG of the same tiles at native zoom: bytes, CPU time of the server, and the error against the PNG,
which is lossless. The figures are ratios to PNG. JPEG has no alpha, so only WMS offers it.
"""

import json
import resource
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serve_archive import NATIVE_ZOOM, SyntheticCollection
from benchmarks.serve_contenders import Ours
from benchmarks.serve_measure import load_views
from ls4_assets.raster.overview_grid import zoom_resolution

_PNG = "image/png"
FORMATS = ("image/webp", "image/jpeg", _PNG)
_HALF_WORLD = zoom_resolution(0) * 128


@dataclass(frozen=True)
class FormatFigures:
    """Of one tile on average. `error`: root mean square of the difference to the PNG, in gray values."""

    size_bytes: float
    cpu_ms: float
    error: float


def compare(ours: Ours, synthetic: SyntheticCollection, rounds: int, as_json: bool) -> dict[str, dict[str, float]]:
    """Print and return the figures by format. The tile cache must be off."""
    tiles = load_views(ours, synthetic)[1]
    pictures = {media_type: _draw(ours, synthetic, tiles, media_type, 1)[0] for media_type in FORMATS}
    reference = [_gray(picture) for picture in pictures[_PNG]]
    idle_s = _draw(ours, synthetic, tiles, _PNG, 0)[1]
    figures = {}
    for media_type in FORMATS:
        cpu_s = min(_draw(ours, synthetic, tiles, media_type, rounds)[1] for _ in range(3)) - idle_s
        differences = [_gray(picture) - expected for picture, expected in zip(pictures[media_type], reference, strict=True)]
        figures[media_type] = FormatFigures(
            mean(len(picture) for picture in pictures[media_type]),
            1000 * cpu_s / rounds / len(tiles),
            float(np.sqrt(np.mean(np.square(differences)))),
        )
    ratios = {media_type: _ratios(each, figures[_PNG]) for media_type, each in figures.items()}
    for media_type, each in figures.items():
        print(
            f"{media_type:10s}  {each.size_bytes / 1000:6.1f} kB ({ratios[media_type]['size']:.2f} of PNG)   "
            f"{each.cpu_ms:5.2f} ms CPU ({ratios[media_type]['cpu']:.2f} of PNG)   error {each.error:.1f}"
        )
    if as_json:
        print(json.dumps(ratios))
    return ratios


def _ratios(each: FormatFigures, png: FormatFigures) -> dict[str, float]:
    return {
        "size": round(each.size_bytes / png.size_bytes, 3),
        "cpu": round(each.cpu_ms / png.cpu_ms, 3),
        "error": round(each.error, 2),
    }


def _draw(
    ours: Ours, synthetic: SyntheticCollection, tiles: Sequence[str], media_type: str, rounds: int
) -> tuple[list[bytes], float]:
    """The pictures of the tiles, each drawn once more than `rounds`, and the CPU seconds of a server that draws them."""
    before = _cpu_of_children()
    with ours.running(1) as server, closing(HTTPConnection(server, timeout=60)) as connection:
        paths = [_path(tile, synthetic, media_type) for tile in tiles]
        # Reading from storage is not measured: the first round is part of the idle server's figure too.
        for _ in range(rounds + 1):
            pictures = [_request(connection, path, media_type) for path in paths]
    return pictures, _cpu_of_children() - before


def _path(tile: str, synthetic: SyntheticCollection, media_type: str) -> str:
    """The map of a tile by WMS, which offers all formats and has no cache."""
    x, y = (int(part) for part in tile.removesuffix(".png").split("/")[-2:])
    side = 2 * _HALF_WORLD / 2**NATIVE_ZOOM
    left, top = x * side - _HALF_WORLD, _HALF_WORLD - y * side
    return (
        f"/wms/{synthetic.collection.table}?SERVICE=WMS&VERSION=1.1.1&REQUEST=GetMap&STYLES=&SRS=EPSG:3857&TRANSPARENT=TRUE"
        f"&LAYERS={synthetic.collection.name}&FORMAT={media_type}&WIDTH=256&HEIGHT=256"
        f"&BBOX={left},{top - side},{left + side},{top}"
    )


def _request(connection: HTTPConnection, path: str, media_type: str) -> bytes:
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    if answer.getheader("Content-Type") != media_type:
        raise RuntimeError(f"{path} returned {body[:500]!r}: check the server's log.")
    return body


def _gray(picture: bytes) -> NDArray[np.float64]:
    """On black where transparent, as JPEG draws it."""
    pixels = np.asarray(Image.open(BytesIO(picture)).convert("RGBA")).astype(float)
    return pixels[..., 0] * (pixels[..., 3] > 0)


def _cpu_of_children() -> float:
    """CPU seconds of the processes that this one has started and that have exited, with those that they started."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
