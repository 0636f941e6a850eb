"""A check of the map from a visitor's side: request a picture from the web front end and check that it shows imagery."""

import warnings

import httpx
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def get_map(address: str, layer: str, bounds: tuple[float, float, float, float], size: int = 256) -> bytes:
    """The answer to a WMS 1.1.1 GetMap of one layer as PNG; empty when no server answers at the address.

    ``bounds``: left, bottom, right, top in EPSG:3857. ``size``: width and height in pixels.
    """
    params = {
        "SERVICE": "WMS", "VERSION": "1.1.1", "REQUEST": "GetMap", "LAYERS": layer, "STYLES": "",
        "SRS": "EPSG:3857", "BBOX": ",".join(f"{value:.3f}" for value in bounds), "WIDTH": str(size),
        "HEIGHT": str(size), "FORMAT": "image/png", "TRANSPARENT": "TRUE",
    }  # fmt: skip
    try:
        return httpx.get(httpx.URL(address).copy_merge_params(params), timeout=30, trust_env=False).content
    except httpx.HTTPError:
        return b""


def shows_imagery(picture: bytes) -> bool:
    """Whether a picture is a PNG that is opaque over more than 95% of its area and not of one flat tone.

    False for an error message in place of a picture.
    """
    if not picture.startswith(PNG_SIGNATURE):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a PNG has no georeference
        with MemoryFile(picture) as file, file.open() as png:
            bands = png.read(out_dtype="float32")
            opaque = png.dataset_mask() > 0
    return bool(opaque.mean() > 0.95 and bands[0][opaque].std() > 5)
