"""Find the raw scan of a frame in scanned/. `ingest.late_raw_scans` links scans that arrive after their frame."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Literal

from ls4_assets.domain.names import Frame
from resources.storage import Storage

# Scanner software writes any of these; the first that exists is used.
SUFFIXES = (".tif", ".TIF", ".tiff", ".TIFF", ".Tif")

RawScanState = Literal["present", "missing", "arrived"]


def find_raw_scan(storage: Storage, frame: Frame) -> str | None:
    """Return the file name of the frame's raw scan; None when there is none yet."""
    prefix = frame.scan_prefix
    if prefix is None:
        return None
    keys = (f"{prefix[:-1]}{suffix}" for suffix in SUFFIXES)
    return next((PurePosixPath(key).name for key in keys if storage.head(key)), None)


def raw_scan_state(frame: Frame, file_name: str | None, *, was_missing: bool) -> RawScanState | None:
    """Return the state of the raw scan `file_name` of a new COG; None for a mosaic sheet, which has no scan.

    `was_missing`: an earlier COG of the frame was built without the scan.
    """
    if frame.scan_prefix is None:
        return None
    if file_name is None:
        return "missing"
    return "arrived" if was_missing else "present"


def match_raw_scans(frames: Iterable[Frame], files: Iterable[str]) -> Mapping[Frame, str]:
    """Return the frames whose raw scan is among the `files` of their folder, with its file name."""
    listed = set(files)
    matches = {}
    for frame in frames:
        names = (f"{frame.scan_stem}{suffix}" for suffix in SUFFIXES)
        if name := next((name for name in names if name in listed), None):
            matches[frame] = name
    return matches
