"""The registry of sidecars: the files beside a tif that belong to it, and are part of its version.

Code that lists, copies, fetches or checks sidecars reads this table and has no list of its own. To add a kind, add its entry and
run `make reference`; what is read from it is in `ls4_assets.raster` (`position` reads georeferences, `mask` reads masks).
"""

from dataclasses import dataclass
from typing import Literal

_TIF_SUFFIXES = (".tif", ".tiff")
TIF_SPELLINGS = (".tif", ".TIF", ".tiff", ".TIFF", ".Tif")
"""Suffixes of a tif to look for where only single keys can be asked for."""
MAX_TEXT_BYTES = 1_000_000
"""World files have a hundred bytes, coordinate systems a few thousand, statistics of ArcGIS some ten thousand."""

Content = Literal["world file", "coordinate system", "metadata", "registration", "control points", "mask"]


@dataclass(frozen=True)
class SidecarKind:
    """A kind of sidecar of `x.tif`.

    suffix: replaces ".tif" in the name, in lower case. ".tif.msk" stands for x.tif.msk, and for x.tiff.msk beside x.tiff.
    content: what is in it.
    written_by: programs that write it, for the reference.
    max_bytes: largest accepted size; None: as many as a tif may have (LS4_MAX_SOURCE_BYTES).
    """

    suffix: str
    content: Content
    written_by: str
    max_bytes: int | None = MAX_TEXT_BYTES

    @property
    def is_text(self) -> bool:
        return self.content != "mask"

    @property
    def has_crs(self) -> bool:
        """Whether it can name a coordinate reference system."""
        return self.is_text and self.content != "world file"


SIDECARS: tuple[SidecarKind, ...] = (
    SidecarKind(".tfw", "world file", "GDAL, QGIS, ArcGIS"),
    SidecarKind(".tfwx", "world file", "ArcGIS"),
    SidecarKind(".tifw", "world file", "GDAL"),
    SidecarKind(".wld", "world file", "GDAL, AutoCAD"),
    SidecarKind(".prj", "coordinate system", "ArcGIS, QGIS"),
    SidecarKind(".tif.aux.xml", "metadata", "GDAL, ArcGIS"),
    SidecarKind(".aux.xml", "metadata", "ArcGIS 9"),
    SidecarKind(".tab", "registration", "MapInfo"),
    SidecarKind(".tif.points", "control points", "QGIS"),
    SidecarKind(".points", "control points", "QGIS"),
    SidecarKind(".tif.msk", "mask", "GDAL", max_bytes=None),
)

_BY_SUFFIX = {kind.suffix: kind for kind in SIDECARS}
# The spellings of each suffix, longest first, so that x.tif.aux.xml is not taken for a sidecar of x.tif.tif.
_SPELLINGS = {
    spelling: kind.suffix
    for kind in SIDECARS
    for spelling in (kind.suffix, f".tiff{kind.suffix.removeprefix('.tif')}" if kind.suffix.startswith(".tif") else kind.suffix)
}
_LONGEST_FIRST = sorted((*_TIF_SUFFIXES, *_SPELLINGS), key=len, reverse=True)


def is_tif(key: str) -> bool:
    return key.lower().endswith(_TIF_SUFFIXES)


def frame_stem(key: str) -> str | None:
    """Path, without suffix, of the tif that `key` names or is a sidecar of; None for any other file."""
    lower = key.lower()
    return next((key[: -len(suffix)] for suffix in _LONGEST_FIRST if lower.endswith(suffix)), None)


def sidecar_kind(key: str) -> SidecarKind | None:
    """The kind of the sidecar `key`; None for a tif and any other file."""
    stem = frame_stem(key)
    return None if stem is None or is_tif(key) else _BY_SUFFIX[_SPELLINGS[key[len(stem) :].lower()]]


def plain_suffix(key: str) -> str:
    """Suffix of a tif or sidecar as the registry spells it: lower case, and ".tif" for ".tiff"."""
    kind = sidecar_kind(key)
    return kind.suffix if kind else ".tif"
