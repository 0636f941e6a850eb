"""The raw scan of a frame: under which name it lies in scanned/, and what became of it since the frame was made last."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Literal

from ls4_assets.domain.names import Frame
from resources.storage import Storage

# Scanners write .tif and .TIF as they please. The first that lies there is taken.
SUFFIXES = (".tif", ".TIF", ".tiff", ".TIFF", ".Tif")

ScanState = Literal["there", "missing", "arrived"]


def find_scan(storage: Storage, frame: Frame) -> str | None:
    """File name of the frame's raw scan; None when there is none (yet)."""
    prefix = frame.scan_prefix
    if prefix is None:
        return None
    keys = (f"{prefix[:-1]}{suffix}" for suffix in SUFFIXES)
    return next((PurePosixPath(key).name for key in keys if storage.head(key)), None)


def scan_state(frame: Frame, found: str | None, *, was_missing: bool) -> ScanState | None:
    """Of a frame that was made; `was_missing` when it was made before. None for a mosaic, which has no scan."""
    if frame.scan_prefix is None:
        return None
    if found is None:
        return "missing"
    return "arrived" if was_missing else "there"


def match_scans(frames: Iterable[Frame], files: Iterable[str]) -> Mapping[Frame, str]:
    """Those of the frames whose raw scan is among the files of their folder, with its name."""
    listed = set(files)
    found = {}
    for frame in frames:
        names = (f"{frame.scan_stem}{suffix}" for suffix in SUFFIXES)
        if name := next((name for name in names if name in listed), None):
            found[frame] = name
    return found
