"""Frame profiles: what is done to the pixels of a frame, as data.

One frozen profile a band. An operator may change any option; each says here why it is there and why its
default is what it is. A profile's hash of a step names everything that decides that step's bytes, so that a
product made under another profile is recognised as stale, and one that a change cannot touch is not. No pixel
is read here.
"""

import hashlib
import json
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ls4_assets.domain.names import STEPS, FilmType, Step

PIXELS_VERSION = 1
"""Raised by hand when the code of `ls4_assets.raster` gives other pixels from the same profile: part of every hash."""

_OPTIONS_OF_STEP: dict[Step, tuple[str, ...]] = {
    "deflate": ("film_type", "resampling", "blocksize", "deflate_zlevel", "detect_collar"),
    "overviews": ("overview_resampling", "overview_levels"),
    "cog": ("cog_compression", "jpeg_quality"),
}
# The hash is part of the archive's data: renaming a field must not make every product stale.
_HASHED_AS = {"film_type": "band"}


class FrameProfile(BaseModel):
    """How the frames of one band become deflate tif, overviews and COG."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Decides how many bands a frame must have (bw 1, nc 3) and its photometric interpretation.
    film_type: FilmType

    # Used only where a frame is reprojected. Cubic keeps the edges and the grain of a photograph; bilinear
    # blurs them, nearest breaks lines by up to half a pixel, lanczos rings around the fiducial marks and the
    # film's writing.
    resampling: Literal["nearest", "bilinear", "cubic", "cubic_spline", "lanczos"] = "cubic"

    # 512 px tiles: a 256 px map tile reads one to four of them, and the headers stay small. TIFF wants
    # multiples of 16.
    blocksize: Annotated[int, Field(ge=64, le=4096, multiple_of=16)] = 512

    # Effort of DEFLATE for deflate tif and overviews. After the predictor a photograph is grain without repetition, and
    # searching longer for repetitions finds none: over six real frames level 6 is between 5 % larger and 8 % smaller
    # than level 1, and takes 1.2 to 2.4 times the CPU. 9 gains another 2 to 5 % for three times the CPU again.
    deflate_zlevel: Annotated[int, Field(ge=1, le=12)] = 1

    # Average is what the eye does with grain; it takes the valid pixels only, so collars do not darken the
    # edges.
    overview_resampling: Literal["average", "bilinear", "cubic", "gauss", "lanczos", "nearest"] = "average"

    # None: by halves until a level fits one block. A list (legacy gdaladdoLayers: 2 4 8 16 32 64) is taken in
    # order and also ends with the first level that fits one block, because smaller ones cost requests and are
    # never shown.
    overview_levels: tuple[int, ...] | None = None

    # DEFLATE is lossless; JPEG (YCbCr for three bands, with an internal mask for the collar) is a tenth of
    # the size.
    cog_compression: Literal["DEFLATE", "JPEG"]

    # Of JPEG COGs only. 85 shows no blocks on film grain; 95 doubles the size.
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 85

    # Find collars of pure black or white that no tag declares; False keeps every pixel of a frame that
    # declares nothing.
    detect_collar: bool = True

    @field_validator("overview_levels")
    @classmethod
    def _powers_of_two(cls, levels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if levels is None:
            return None
        rising = all(low < high for low, high in pairwise(levels))
        if not levels or not rising or any(level < 2 or level & (level - 1) for level in levels):
            raise ValueError(
                f"overview_levels {list(levels)} are not rising powers of two: write e.g. [2, 4, 8, 16], "
                "or leave the option out for levels by halves"
            )
        return levels

    @property
    def bands(self) -> int:
        """How many bands the products have, the mask not counted."""
        return 1 if self.film_type == "bw" else 3

    def levels_for(self, width: int, height: int) -> tuple[int, ...]:
        """Overview levels of an image of `width` x `height` pixels, as decimation factors.

        Never empty: also an image that fits one block has one overview, so that each frame has all products.
        """
        candidates = self.overview_levels or tuple(2**power for power in range(1, 32))
        levels = []
        for level in candidates:
            levels.append(level)
            if -(-max(width, height) // level) <= self.blocksize:
                break
        return tuple(levels)

    def hash(self, step: Step) -> str:
        """Twelve hex digits over PIXELS_VERSION and the options that matter to `step` or a step before it."""
        upstream = STEPS[: STEPS.index(step) + 1]
        options = {_HASHED_AS.get(name, name): getattr(self, name) for part in upstream for name in _OPTIONS_OF_STEP[part]}
        if self.cog_compression != "JPEG":
            options.pop("jpeg_quality", None)
        text = json.dumps([PIXELS_VERSION, options], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


BW = FrameProfile(film_type="bw", cog_compression="DEFLATE")
NC = FrameProfile(film_type="nc", cog_compression="JPEG")
PROFILES: dict[FilmType, FrameProfile] = {"bw": BW, "nc": NC}
