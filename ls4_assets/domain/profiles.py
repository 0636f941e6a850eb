"""Frame profiles: the processing options of each film type, with the reason for each default. Operators may change any of them.

A profile's hash for a step covers everything that affects the bytes of that step's product. A product is stale when its hash
differs from the active profile's. `products` says which options affect which product; `ls4_assets.raster` applies them to pixels.
"""

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ls4_assets.domain.film_types import FILM_TYPES, CogCompression, FilmType, join_or
from ls4_assets.domain.products import Step, product_of, upstream_steps

PIXELS_VERSION = 1
"""Part of every hash. Increment it when a change in `ls4_assets.raster` produces different pixels from the same profile."""

# Names of fields in the hash. The hash is stored with every product, so renaming a field here would make all products stale.
_HASHED_AS = {"film_type": "band"}
# Fields that are in the hash only with another value than their default: they were added after products had been made.
_HASHED_IF_CHANGED = ("gcp_transformation",)

GcpTransformation = Literal["auto", "polynomial 1", "polynomial 2", "polynomial 3", "thin-plate spline"]


class FrameProfile(BaseModel):
    """Options that turn the frames of one film type into deflate tif, overviews and COG."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Determines the bands that a frame must have and its photometric interpretation (`film_types`).
    film_type: FilmType

    # Used only when a frame is reprojected. Cubic preserves the edges and the grain of a photograph. Bilinear blurs them, nearest
    # shifts lines by up to half a pixel, and lanczos rings around the fiducial marks and the writing on the film.
    resampling: Literal["nearest", "bilinear", "cubic", "cubic_spline", "lanczos"] = Field(
        "cubic", description="used where a frame is reprojected to EPSG:3857"
    )

    # Tile size in pixels. With 512 a 256 px map tile reads one to four tiles, and the headers stay small. TIFF requires multiples
    # of 16.
    blocksize: int = Field(512, ge=64, le=4096, multiple_of=16, description="tiles of deflate tif, overviews and COG, in pixels")

    # DEFLATE level of the deflate tif and the overviews. After the predictor a photograph is grain without repetition, so higher
    # levels gain little: over six real frames level 6 is between 5 % larger and 8 % smaller than level 1 and takes 1.2 to 2.4
    # times the CPU. Level 9 saves another 2 to 5 % for three times that CPU.
    deflate_zlevel: int = Field(1, ge=1, le=12, description="effort of DEFLATE")

    # Average smooths grain as the eye does. It uses valid pixels only, so collars do not darken the edges.
    overview_resampling: Literal["average", "bilinear", "cubic", "gauss", "lanczos", "nearest"] = Field(
        "average", description="valid pixels only, so that collars do not darken the edges"
    )

    # Decimation factors. None: 2, 4, 8, ... until a level fits one block. A list (legacy gdaladdoLayers: 2 4 8 16 32 64) also
    # ends with the first level that fits one block, because smaller levels cost requests and are never displayed.
    overview_levels: tuple[int, ...] | None = Field(
        None, description="none: by halves until a level fits one block; or a list, `[2,4,8,16]`"
    )

    # DEFLATE is lossless. JPEG (YCbCr for three bands, with an internal mask for the collar) is a tenth of the size.
    cog_compression: CogCompression = Field(description="`DEFLATE` (lossless) or `JPEG`")

    # JPEG COGs only. 85 shows no block artifacts on film grain; 95 doubles the size.
    jpeg_quality: int = Field(85, ge=1, le=100, description="for JPEG only")

    # Whether to detect collars in frames without a nodata tag or mask. False keeps every pixel of those.
    detect_collar: bool = Field(
        True,
        description="find collars that the file does not declare: black, white or flat borders outside the photograph's outline",
    )

    # Frames with ground control points only. More terms follow more of the terrain and also more of the errors of the points.
    gcp_transformation: GcpTransformation = Field(
        "auto",
        description="how ground control points place a frame: a polynomial of order `1`, `2` or `3`, such as `polynomial 2`, or "
        "`thin-plate spline`; `auto` takes order 1 up to 6 points, order 2 up to 29 and the spline from 30 on",
    )

    @field_validator("film_type")
    @classmethod
    def _known_film_type(cls, film_type: FilmType) -> FilmType:
        if film_type not in FILM_TYPES:
            raise ValueError(f"{film_type} is not a film type: use {join_or([*FILM_TYPES])}")
        return film_type

    @field_validator("overview_levels")
    @classmethod
    def _powers_of_two(cls, levels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if levels is None:
            return None
        is_increasing = all(low < high for low, high in pairwise(levels))
        if not levels or not is_increasing or any(level < 2 or level & (level - 1) for level in levels):
            raise ValueError(
                f"overview_levels {list(levels)} are not increasing powers of two: write e.g. [2, 4, 8, 16], "
                "or omit the option to halve the size at each level"
            )
        return levels

    @property
    def bands(self) -> int:
        """Number of bands of the products, excluding the mask."""
        return FILM_TYPES[self.film_type].bands

    def levels_for(self, width: int, height: int) -> tuple[int, ...]:
        """Decimation factors of the overviews of an image of `width` x `height` pixels.

        Never empty: an image that fits one block still gets one overview, so every frame has all products.
        """
        candidates = self.overview_levels or tuple(2**power for power in range(1, 32))
        levels = []
        for level in candidates:
            levels.append(level)
            if -(-max(width, height) // level) <= self.blocksize:
                break
        return tuple(levels)

    def hash(self, step: Step) -> str:
        """Twelve hex digits over PIXELS_VERSION and the options that affect `step` or an earlier step."""
        names = (name for each in (*upstream_steps(step), step) for name in product_of(each).profile_options)
        options = {_HASHED_AS.get(name, name): getattr(self, name) for name in names}
        if self.cog_compression != "JPEG":
            options.pop("jpeg_quality", None)
        for name in _HASHED_IF_CHANGED:
            if options.get(name) == type(self).model_fields[name].default:
                options.pop(name)
        text = json.dumps([PIXELS_VERSION, options], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


Profiles = Mapping[FilmType, FrameProfile]
"""The frame profile of each film type."""

PROFILES: Profiles = {
    film_type: FrameProfile(film_type=film_type, cog_compression=spec.cog_compression) for film_type, spec in FILM_TYPES.items()
}
