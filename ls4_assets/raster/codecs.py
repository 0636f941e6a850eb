"""Names of the compressions of TIFF, for the rejection of a file in one that this system cannot read."""

from pathlib import Path

from ls4_assets.raster.tiff_directories import COMPRESSION, Directory

_NAMES = {
    2: "CCITT RLE", 3: "CCITT Group 3", 4: "CCITT Group 4", 5: "LZW", 6: "old-style JPEG", 7: "JPEG", 8: "DEFLATE", 9: "JBIG",
    10: "JBIG", 32766: "NeXT", 32773: "PackBits", 32809: "ThunderScan", 32908: "PixarFilm", 32909: "PixarLog",
    32946: "DEFLATE", 32947: "Kodak DCS", 33003: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG", 34676: "SGI LogLuv",
    34677: "SGI LogLuv", 34712: "JPEG 2000", 34713: "Nikon NEF", 34715: "JBIG2", 34887: "LERC", 34892: "lossy JPEG of DNG",
    34925: "LZMA", 34933: "PNG", 34934: "JPEG XR", 50000: "ZSTD", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_NOT_CONFIGURED = ("missing codec", "not configured", "not supported", "support is not", "not implemented")


def explain_codec(path: Path, directory: Directory | None, reason: str) -> str | None:
    """Return the rejection of a file whose compression GDAL cannot read, by GDAL's `reason`; None for any other fault."""
    if directory is None or not any(words in reason.lower() for words in _NOT_CONFIGURED):
        return None
    code = directory.number(COMPRESSION, 1)
    name = _NAMES.get(code)
    if name is None:
        return (
            f"{path.name} is compressed with method {code} of TIFF, which this system cannot read; "
            "export it again as a GeoTIFF with DEFLATE or LZW and drop that."
        )
    return (
        f"{path.name} is compressed with {name}, a codec that this system cannot read; "
        "export it again as a GeoTIFF with DEFLATE or LZW and drop that."
    )
