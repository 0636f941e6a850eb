"""Coordinate reference systems that name files: PROJ opens a grid by its path or address as soon as it reads such a system.

So the sidecars are searched as text before GDAL reads them. All notations that PROJ accepts count: its own strings, WKT 1 and 2,
and JSON, each with its escape sequences. A grid by its bare name is left to PROJ, which looks for it among its own only.
"""

import codecs
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

from ls4_assets.domain.sidecars import SIDECARS
from ls4_assets.errors import FrameError

CRS_ADVICE = (
    "delete its .aux.xml and .prj, write a CRS with an EPSG code into the tif with gdal_edit.py -a_srs, and drop it again"
)
_STRING = r'"((?:[^"]|"")*)"'
_FILES = tuple(
    re.compile(pattern, re.ASCII | re.IGNORECASE)
    for pattern in (
        # `@` marks an optional grid, which PROJ skips when it is missing.
        r'(?:grids|\b(?:file|model|catalog))\s*=\s*"?([^\s"\]<]+)',
        # `+init=epsg:32633` is a code in a file of PROJ.
        r'\binit\s*=\s*"?([^\s":<]+)',
        rf'PARAMETERFILE\s*[\[(]\s*"(?:[^"]|"")*"\s*,\s*{_STRING}',
        rf'EXTENSION\s*[\[(]\s*"PROJ4_GRIDS"\s*,\s*{_STRING}',
        r'"value"\s*:\s*"([^"]+)',
    )
)
_ESCAPED = re.compile(r"\\u00([2-7][0-9a-f])", re.ASCII | re.IGNORECASE)
# PROJ also accepts the quotation marks of printed text.
_PLAIN = str.maketrans({"\u201c": '"', "\u201d": '"'})


def reject_sidecar_files(path: Path) -> None:
    """Raise FrameError when a sidecar of the tif names a file or an address."""
    for kind in SIDECARS:
        for suffix in (kind.suffix, kind.suffix.upper()):
            sidecar = path.with_name(f"{path.stem}{suffix}")
            if kind.has_crs and sidecar.is_file():
                reject_crs_files(read_text(sidecar), path)


def read_text(path: Path) -> str:
    """The text of a sidecar in UTF-8 or UTF-16, with a byte order mark or without; other bytes are replaced."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    if data[1:2] == b"\0" or data[:1] == b"\0":
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def reject_crs_files(text: str, path: Path) -> None:
    """Raise FrameError for the tif at `path` when a CRS in the text names a file or an address."""
    for name in _iter_files(text):
        raise FrameError(
            f"{path.name} has a coordinate reference system that refers to another file, {name[:200]}; {CRS_ADVICE}."
        )


def _iter_files(text: str) -> Iterator[str]:
    plain = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), unescape(text).translate(_PLAIN))
    for pattern in _FILES:
        for names in pattern.findall(plain):
            yield from (name for name in names.split(",") if "/" in name or ":" in name)
