"""Small datum grids for the tests, in the format CTABLE V2 that PROJ reads under any name."""

import math
import struct
from pathlib import Path

SHIFT_SECONDS = (7.0, -5.0)
"""Shift of longitude to the east and of latitude to the north. Real shifts in Texas are about 1 second."""


def write_grid(folder: Path, name: str = "us_noaa_conus.tif") -> Path:
    """Write a grid that shifts all of Texas by SHIFT_SECONDS. PROJ selects a grid by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    west, south, columns, rows = -108, 24, 17, 15
    east_shift, north_shift = (math.radians(seconds / 3600) for seconds in SHIFT_SECONDS)
    header = b"CTABLE V2.0".ljust(16) + b"test".ljust(80, b"\0")
    header += struct.pack("<4d2i", *map(math.radians, (west, south, 1, 1)), columns, rows)
    # Longitudes are positive to the west in this format.
    path = folder / name
    path.write_bytes(header.ljust(160, b"\0") + struct.pack("<2f", -east_shift, north_shift) * (columns * rows))
    return path
