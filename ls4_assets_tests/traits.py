"""The traits that a dropped tif may have in its pixels, as data: a file that shows each, and what happens to it.

`unit/test_traits.py` processes every file, and docs/reference/files.md has the table. A trait is accepted, and its generator
returns the photograph that must come out and its valid pixels; or it is rejected with `rejection` in the message.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ls4_assets.domain.film_types import FilmType
from ls4_assets_tests.icc_profiles import ADOBE_RGB, SRGB, curve, parametric_curve, profile, table_curve
from ls4_assets_tests.trait_files import (
    cut,
    damaged,
    feathered_alpha,
    foreign_msk,
    hard_alpha,
    infrared_as_alpha,
    internal_mask,
    msk,
    nodata,
    one_pixel,
    overviews,
    page_with_mask,
    pages,
    recoded,
    rejected,
    retagged,
    sub_image,
    two_photographs,
    unclear_alpha,
    unmarked_msk,
    unwritten,
    with_alpha,
)
from ls4_assets_tests.trait_pixels import (
    HEIGHT,
    TILED,
    WIDTH,
    Truth,
    bgr,
    cielab,
    cmyk,
    few_bits,
    gray_reversed,
    palette,
    plain,
    reddish,
    wide,
    with_profile,
)


@dataclass(frozen=True)
class Trait:
    """A trait and what happens to a file that has it.

    outcome: for people. make: writes the file, and returns the photograph that must come out; None when it is rejected with
    `rejection` in the message. tolerance: largest difference of a gray value.
    """

    group: str
    name: str
    outcome: str
    make: Callable[[Path], Truth | None]
    film_type: FilmType = "bw"
    rejection: str = ""
    tolerance: int = 0

    @property
    def id(self) -> str:
        return f"{self.group}: {self.name} ({self.film_type})"


CODECS = ("LZW", "PACKBITS", "DEFLATE", "LZMA", "ZSTD", "LERC")
KEPT = "accepted, every value kept"
STRETCHED = "accepted, stretched to 8 bits"
DAMAGED = "rejected with the rows and columns of the damage"
MASKED = "accepted, transparent where alpha is below 128"
FULL = "accepted, the image of full resolution"
NO_COLLAR = f"{STRETCHED}, the collar kept out"
UNREADABLE = "rejected: this system cannot read the codec"
_UPPER = np.arange(HEIGHT)[:, None].repeat(WIDTH, 1) < 128

TRAITS: tuple[Trait, ...] = (
    *(Trait("codec", name, KEPT, plain(compress=name, **TILED)) for name in CODECS),
    Trait("codec", "none", KEPT, plain()),
    Trait("codec", "WebP, lossless", KEPT, plain(3, compress="WEBP", webp_lossless=True, **TILED), "nc"),
    Trait("codec", "JPEG", "accepted, as the JPEG shows it", plain(compress="JPEG", jpeg_quality=98, **TILED), tolerance=12),
    *(
        Trait("codec", f"CCITT {name[5:]}", "accepted, 0 and 1 become black and white", few_bits(1, compress=name))
        for name in ("CCITTRLE", "CCITTFAX3", "CCITTFAX4")
    ),
    Trait("codec", "JPEG XL", UNREADABLE, recoded(50002), rejection="compressed with JPEG XL"),
    Trait("codec", "JPEG 2000", UNREADABLE, recoded(34712), rejection="compressed with JPEG 2000"),
    Trait("codec", "JPEG 2000 of Aperio", UNREADABLE, recoded(33003), rejection="compressed with JPEG 2000"),
    Trait("codec", "JBIG", UNREADABLE, recoded(34661), rejection="compressed with JBIG"),
    Trait("codec", "unknown", UNREADABLE, recoded(64999), rejection="method 64999"),
    Trait("layout", "big-endian", KEPT, plain(endianness="BIG")),
    Trait("layout", "BigTIFF", KEPT, plain(bigtiff="YES")),
    Trait("layout", "bands in planes", KEPT, plain(3, interleave="band"), "nc"),
    Trait("layout", "1 x 1 pixels", "rejected: not a photograph", one_pixel, rejection="1 x 1 pixels"),
    Trait("type", "1 bit, black is 0", "accepted, 0 and 1 become black and white", few_bits(1)),
    Trait("type", "1 bit, black is 1", "accepted, 0 and 1 become white and black", few_bits(1, photometric="MINISWHITE")),
    Trait("type", "2 bits", "accepted, scaled to 8 bits", few_bits(2)),
    Trait("type", "4 bits", "accepted, scaled to 8 bits", few_bits(4)),
    Trait("type", "4 bits, black is 15", "accepted, scaled to 8 bits", few_bits(4, photometric="MINISWHITE")),
    Trait("type", "uint16 of which 12 bits are used", STRETCHED, wide("uint16"), tolerance=1),
    Trait("type", "uint16 with a white collar", NO_COLLAR, wide("uint16", collar_value=65535), tolerance=1),
    Trait("type", "uint16 with a black collar", NO_COLLAR, wide("uint16", offset=500, collar_value=0),
          tolerance=1),
    Trait("type", "uint16 with nodata", STRETCHED, wide("uint16", collar_value=65535, nodata=65535), tolerance=1),
    Trait("type", "uint16 in color", f"{STRETCHED}, one range", wide("uint16", bands=3, photometric="RGB"), "nc", tolerance=1),
    Trait("type", "uint16 with NBITS=12", "accepted, by that range", wide("uint16", 4095 / 255, nbits=12), tolerance=1),
    Trait("type", "uint16 with SMinSampleValue and SMaxSampleValue", "accepted, that range becomes 0 to 255",
          wide("uint16", tags={340: 0, 341: 16 * 255}), tolerance=1),
    Trait("type", "uint16 with wrong SMaxSampleValue", f"{STRETCHED}, by its values", wide("uint16", tags={340: 0, 341: 255}),
          tolerance=1),
    Trait("type", "uint16 of 8-bit values", KEPT, wide("uint16", 1)),
    Trait("type", "uint16, black is the highest value", STRETCHED, wide("uint16", is_inverted=True, photometric="MINISWHITE"),
          tolerance=1),
    Trait("type", "int16 with nodata", STRETCHED, wide("int16", offset=-1000, collar_value=-9999, nodata=-9999), tolerance=1),
    Trait("type", "uint32", STRETCHED, wide("uint32", 1e6), tolerance=1),
    Trait("type", "float32, 0 to 1", STRETCHED, wide("float32", 1 / 255), tolerance=1),
    Trait("type", "float32 with nan", f"{STRETCHED}, nan is not valid", wide("float32", collar_value=np.nan), tolerance=1),
    Trait("type", "float32 with -3.4e38", f"{STRETCHED}, not valid",
          wide("float32", collar_value=float(np.finfo("f4").min)), tolerance=1),
    Trait("type", "float64", STRETCHED, wide("float64", 3.7, offset=-5), tolerance=1),
    Trait("type", "complex", "rejected with a command", rejected(wide("complex64")), rejection="gdal_translate -ot Float32"),
    Trait("colors", "black is 255", "accepted, inverted", wide("uint8", 1, is_inverted=True, photometric="MINISWHITE")),
    Trait("colors", "gray palette", "accepted, expanded", palette(gray_reversed, 1)),
    Trait("colors", "color palette", "accepted, expanded", palette(reddish, 3), "nc"),
    Trait("colors", "color palette", "rejected with a command", rejected(palette(reddish, 3)), rejection="-expand gray"),
    Trait("colors", "blue, green, red by color interpretation", "accepted, in the right order", bgr, "nc"),
    Trait("colors", "CMYK", "accepted, converted by GDAL", cmyk, "nc", tolerance=1),
    Trait("colors", "YCbCr", "accepted, as the JPEG shows it",
          plain(3, compress="JPEG", photometric="YCBCR", jpeg_quality=98, **TILED), "nc", tolerance=70),
    Trait("colors", "CIELab", "accepted, converted to sRGB", cielab(8, False), "nc", tolerance=2),
    Trait("colors", "CIELab of 16 bits", "accepted, converted to sRGB", cielab(8, False, "uint16"), "nc", tolerance=2),
    Trait("colors", "CIELab stored as ICCLab", "accepted, converted to sRGB", cielab(8, True), "nc", tolerance=2),
    Trait("colors", "ICCLab", "accepted, converted to sRGB", cielab(9, True), "nc", tolerance=2),
    Trait("colors", "ICC profile of curves and a matrix (Adobe RGB)", "accepted, converted to sRGB",
          with_profile(profile(curve(2.19921875), ADOBE_RGB), 3), "nc", tolerance=2),
    Trait("colors", "ICC profile with a parametric curve", "accepted, converted to sRGB",
          with_profile(profile(parametric_curve(1.8), ADOBE_RGB), 3), "nc", tolerance=2),
    Trait("colors", "ICC profile of gray gamma 1.8", "accepted, converted to sRGB",
          with_profile(profile(table_curve(1.8), None), 1), tolerance=2),
    Trait("colors", "ICC profile of gray gamma 2.2", KEPT, with_profile(profile(curve(2.2), None), 1, is_kept=True)),
    Trait("colors", "ICC profile sRGB", KEPT, with_profile(SRGB, 3, is_kept=True), "nc"),
    Trait("colors", "ICC profile of tables", "accepted, every value kept: such a profile is not applied",
          with_profile(profile(curve(1.8), ADOBE_RGB).replace(b"TRC", b"XXX"), 3, is_kept=True), "nc"),
    Trait("colors", "raw mosaic of a camera (CFA)", "rejected", retagged(32803), rejection="CFA"),
    Trait("colors", "LogLuv", "rejected", retagged(32845), rejection="Log2"),
    Trait("colors", "three bands", "rejected with the right folder or a command", rejected(plain(3)), rejection="under nc/"),
    Trait("colors", "five bands", "rejected with a command", rejected(plain(5)), "nc", rejection="-b 1 -b 2 -b 3"),
    Trait("colors", "four bands", "rejected with a command", rejected(plain(4)), "cir", rejection="-b 4 -b 1 -b 2"),
    Trait("colors", "one band", "rejected with the right folder", rejected(plain()), "nc", rejection="under bw/"),
    Trait("alpha and masks", "gray and alpha", MASKED, with_alpha(1, hard_alpha())),
    Trait("alpha and masks", "RGB and alpha", MASKED, with_alpha(3, hard_alpha()), "nc"),
    Trait("alpha and masks", "alpha before the colors", MASKED,
          with_alpha(3, hard_alpha(), first=True), "nc"),
    Trait("alpha and masks", "feathered alpha", MASKED, with_alpha(1, feathered_alpha())),
    Trait("alpha and masks", "feathered alpha", MASKED,
          with_alpha(3, feathered_alpha()), "nc"),
    Trait("alpha and masks", "premultiplied alpha", "accepted, divided by alpha",
          with_alpha(3, feathered_alpha(), premultiplied=True), "nc", tolerance=1),
    Trait("alpha and masks", "alpha of 16 bits", f"{STRETCHED}, transparent where alpha is below one half",
          with_alpha(3, feathered_alpha(), dtype="uint16"), "nc", tolerance=1),
    Trait("alpha and masks", "near infrared tagged alpha", "accepted, the fourth band is left out", infrared_as_alpha, "nc"),
    Trait("alpha and masks", "a band that is hardly alpha", "rejected with a command",
          rejected(with_alpha(1, unclear_alpha())), rejection="may not be a mask"),
    Trait("alpha and masks", "nodata", "accepted, transparent where all bands are nodata", nodata),
    Trait("alpha and masks", "internal mask", "accepted, the mask is used", internal_mask),
    Trait("alpha and masks", "`x.tif.msk` beside the file", "accepted, the mask is used", msk),
    Trait("alpha and masks", "`x.tif.msk` of another size", "rejected", foreign_msk, rejection="x.tif.msk is a mask of"),
    Trait("alpha and masks", "`x.tif.msk` without GDAL's mark of a mask", "rejected with how to mark it", unmarked_msk,
          rejection="x.tif.msk is not marked as a mask"),
    Trait("images", "thumbnail first", FULL, pages((8, 1, True), (1, 0, True))),
    Trait("images", "thumbnail without a mark first", FULL, pages((8, 0, True), (1, 0, True))),
    Trait("images", "only the thumbnail is georeferenced", "accepted, placed by the thumbnail",
          pages((4, 1, True), (1, 0, False))),
    Trait("images", "thumbnail or label last", FULL, pages((1, 0, True), (8, 0, False))),
    Trait("images", "thumbnail, photograph and its mask", "accepted, the mask is used", page_with_mask),
    Trait("images", "photograph as a sub-image", FULL, sub_image),
    Trait("images", "internal overviews", "accepted, made again", overviews),
    Trait("images", "two photographs", "rejected with a command", two_photographs, rejection="2 images of full resolution"),
    Trait("damage", "JPEG tile", DAMAGED, damaged("zeros", compress="JPEG"), rejection="rows 128 to 255 and columns 128 to 255"),
    *(
        Trait("damage", f"{name} tile", DAMAGED, damaged(kind, compress=name), rejection="rows 128 to 255 and columns 128 to 255")
        for name, kind in (("DEFLATE", "zeros"), ("LZW", "noise"), ("PACKBITS", "noise"), ("ZSTD", "zeros"), ("LZMA", "noise"),
                           ("LERC", "noise"))
    ),
    Trait("damage", "CCITT tile", DAMAGED, damaged("noise", bits=1, compress="CCITTFAX4"), rejection="rows 128 to 255"),
    Trait("damage", "cut file", DAMAGED, cut, rejection="truncated or corrupt in rows"),
    Trait("damage", "tiles that were never written", "rejected with their rows and columns", rejected(unwritten()),
          rejection="never written, first in rows 128 to 255 and columns 0 to 127 (8 of 12 blocks)"),
    Trait("damage", "tiles that were never written, in a file with nodata", "accepted, transparent", unwritten(nodata=0)),
    Trait("damage", "tiles that were never written, where the mask excludes them", "accepted, transparent", unwritten(_UPPER)),
)  # fmt: skip
