"""The folder from which MapServer's PROJ reads its database, its configuration and the operator's grids.

MapServer passes one folder to PROJ, and FastCGI discards the environment, so the network is switched on in PROJ's own
configuration file. The pipeline's PROJ is set up in `ls4_assets.raster.proj_setup`.
"""

from pathlib import Path

from ls4_assets.domain.proj_data import link_proj_data
from ls4_assets.errors import ConfigurationError
from mapserver.files import write_atomically

_SYSTEM = Path("/usr/share/proj")
_INI = "proj.ini"


def write_proj_data(folder: Path, grids: Path | None, is_network_on: bool) -> dict[str, str]:
    """Write the folder if it is needed, and return the options of mapserver.conf that select it.

    Raises ConfigurationError when the folder of grids cannot be read.
    """
    if grids is None and not is_network_on:
        return {}
    if not (_SYSTEM / "proj.db").is_file():
        raise ConfigurationError(f"PROJ's data are not in {_SYSTEM}: install the package proj-data, or unset LS4_PROJ_GRIDS.")
    link_proj_data(folder, _SYSTEM, grids or _SYSTEM)
    if is_network_on:
        (folder / _INI).unlink(missing_ok=True)
        system = _SYSTEM / _INI
        settings = system.read_text(encoding="utf-8") if system.is_file() else "[general]\n"
        write_atomically(folder / _INI, settings.replace("[general]", "[general]\nnetwork = on", 1))
    return {"PROJ_DATA": str(folder)}


def is_true(value: str) -> bool:
    """True for a value that the pipeline's settings read as true."""
    return value.lower() in ("1", "true", "on", "yes", "y", "t")
