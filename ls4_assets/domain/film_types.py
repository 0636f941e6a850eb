"""The film types of the archive: one entry of `FILM_TYPES` is everything that distinguishes a film type from the others.

A film type is the first folder of every key and the column `band` of the tile index. No other module has a list of film types or
a condition on one of them (test_film_types.py). The options that operators may change are in `profiles`. Only the standard
library is imported, because the map server's image and the AWS stacks read the table too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

FilmType = str
"""A key of `FILM_TYPES`, such as bw."""

CogCompression = Literal["DEFLATE", "JPEG"]


@dataclass(frozen=True)
class FilmTypeSpec:
    """What distinguishes a film type.

    title: its name for people, as it follows "in": photographs in natural color.
    band_names: names of the bands in STAC, in the order of the file; one or three. Use the common names of STAC's eo extension.
    color_interpretation: GDAL's, by band: what the band is displayed as.
    cog_compression: default of the frame profile.
    palette_expansion: value for `gdal_translate -expand` that makes such bands from a color palette.
    band_advice: how to keep the right bands of a file that has too many, after "or".
    ignores_fourth_band: accept a file whose fourth band is not tagged as alpha, and leave that band out.
    aliases: names that people use for its folder; a key under one is rejected with the right folder.
    is_in_code_version: Dagster's code versions of assets always name it. A type that was added to an existing archive is named
        only when its profile was changed: otherwise its addition alone would mark every frame in the Dagster UI as stale.
    """

    title: str
    band_names: tuple[str, ...]
    color_interpretation: tuple[str, ...]
    cog_compression: CogCompression
    palette_expansion: Literal["gray", "rgb"]
    band_advice: str
    ignores_fourth_band: bool = False
    aliases: tuple[str, ...] = ()
    is_in_code_version: bool = False

    @property
    def bands(self) -> int:
        """Number of bands of its photographs, excluding a mask."""
        return len(self.band_names)

    @property
    def required_bands(self) -> str:
        """The bands that a frame must have, in words: one band (black and white)."""
        return f"{'one band' if self.bands == 1 else 'three bands'} ({self.title})"


FILM_TYPES: Mapping[FilmType, FilmTypeSpec] = MappingProxyType(
    {
        "bw": FilmTypeSpec(
            title="black and white",
            band_names=("gray",),
            color_interpretation=("gray",),
            cog_compression="DEFLATE",
            palette_expansion="gray",
            band_advice="keep its first band with gdal_translate -b 1",
            is_in_code_version=True,
        ),
        "nc": FilmTypeSpec(
            title="natural color",
            band_names=("red", "green", "blue"),
            color_interpretation=("red", "green", "blue"),
            cog_compression="JPEG",
            palette_expansion="rgb",
            band_advice="keep red, green and blue with gdal_translate -b 1 -b 2 -b 3",
            # Digital cameras add near infrared.
            ignores_fourth_band=True,
            aliases=("rgb",),
            is_in_code_version=True,
        ),
        "cir": FilmTypeSpec(
            title="color infrared",
            band_names=("nir", "red", "green"),
            # As the film itself shows them: near infrared is red, so vegetation is red.
            color_interpretation=("red", "green", "blue"),
            cog_compression="JPEG",
            palette_expansion="rgb",
            # The order of digital cameras is red, green, blue, near infrared: the first three bands would be the wrong ones.
            band_advice="keep near infrared, red and green in this order, for example with gdal_translate -b 4 -b 1 -b 2",
        ),
    }
)


def join_or(words: Sequence[str]) -> str:
    """Return "bw, nc or cir"."""
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
