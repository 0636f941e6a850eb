"""Give PROJ, in this process, the operator's grids: for GDAL, which moves the pixels, and for pyproj, which names the operation.

Call `use_grids` before the first transformation: PROJ keeps what it found. Which grids a place needs is in `transformations`.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rasterio
from pyproj import datadir, network
from rasterio import _env

from ls4_assets.domain.proj_data import link_proj_data, require_grids

_LIBRARY_DATA = Path(rasterio.__file__).parent / "proj_data"


def link_grids(grids: Path | None, folder: Path) -> Path | None:
    """Link PROJ's files and the operator's grids into `folder` and return it; None without grids."""
    if grids is None:
        return None
    # A rasterio that was built on this machine has no data of its own, and uses the system's.
    library = _LIBRARY_DATA if _LIBRARY_DATA.is_dir() else Path(datadir.get_data_dir())
    link_proj_data(folder, library, grids)
    return folder


def use_grids(grids: Path | None, linked: Path | None, *, is_network_on: bool) -> None:
    """Use the operator's `grids`, which `link_grids` has `linked`, and fetch missing ones from PROJ's network if that is on."""
    if grids is not None and linked is not None:
        # rasterio passes this folder to GDAL whenever it starts an environment.
        os.environ["PROJ_DATA"] = str(linked)
        datadir.append_data_dir(str(grids))
    os.environ["PROJ_NETWORK"] = "ON" if is_network_on else "OFF"
    network.set_network_enabled(is_network_on)
    # PROJ has read the variable already when this process was forked from one that imported GDAL. The module is linked with GDAL.
    ctypes.CDLL(_env.__file__).OSRSetPROJEnableNetwork(int(is_network_on))


@contextmanager
def list_with_grids(grids: Path | None) -> Iterator[None]:
    """List operations with the operator's grids, and without those of the network, in this block. For pyproj only."""
    if grids:
        require_grids(grids)
    folders, is_network_on = datadir.get_data_dir(), network.is_network_enabled()
    datadir.set_data_dir(os.pathsep.join([folders, *([str(grids)] if grids else [])]))
    network.set_network_enabled(False)
    try:
        yield
    finally:
        datadir.set_data_dir(folders)
        network.set_network_enabled(is_network_on)
