"""The folder from which PROJ reads its database and its grids, for the pipeline and for the map server.

Neither rasterio nor MapServer 8.0 passes more than one folder to PROJ, so the operator's grids are linked into one folder with
the files that came with the library. Which grids a place needs is in `raster.transformations`.
"""

from collections.abc import Iterable
from pathlib import Path

from ls4_assets.errors import ConfigurationError


def require_grids(folder: Path) -> None:
    """Raise ConfigurationError when the folder of grids does not exist or cannot be read."""
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise ConfigurationError(
            f"The folder of PROJ grids {folder} cannot be read ({error.strerror}); create it, or correct LS4_PROJ_GRIDS."
        ) from None


def link_proj_data(target: Path, library: Path, grids: Path) -> None:
    """Link all files of `library`, and those of `grids` that it does not have, into the folder `target`."""
    require_grids(grids)
    target.mkdir(parents=True, exist_ok=True)
    wanted = {file.name: file.resolve() for file in (*_files(grids), *_files(library))}
    for link in _files(target):
        if link.name not in wanted:
            link.unlink()
    for name, file in wanted.items():
        link = target / name
        if not link.is_symlink() or link.readlink() != file:
            link.unlink(missing_ok=True)
            link.symlink_to(file)


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.iterdir() if path.is_symlink() or path.is_file())
