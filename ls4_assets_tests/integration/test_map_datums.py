"""MapServer transforms the map to the CRS of a client with the same grids as the runs, here with a grid of a large shift."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rasterio.crs import CRS
from rasterio.warp import transform

from ls4_assets.errors import ConfigurationError
from ls4_assets_tests.integration.serving_fixtures import (
    LEFT,
    MIDDLE,
    NAME,
    SPAN,
    TABLE,
    IndexDatabase,
    MapServer,
    index_database_fixture,  # noqa: F401
    rgba,
    serve_frames,
)
from ls4_assets_tests.proj_grids import SHIFT_SECONDS, write_grid
from mapserver.proj_data import write_proj_data

HALF_DEGREES, HALF_PX = 0.001, 100


@pytest.fixture(name="server", scope="module")
def server_fixture(index_database: IndexDatabase) -> Iterator[MapServer]:
    # Not in pytest's folders, which are closed to the account of mapserv.
    with tempfile.TemporaryDirectory(prefix="ls4-grids-") as folder:
        Path(folder).chmod(0o755)
        write_grid(Path(folder))
        with serve_frames(index_database, workers=1, client_rate=0, proj_grids=Path(folder)) as server:
            # An archive whose list of CRSs has NAD27; the one that ships with ls4 has not.
            mapfile = server.archive / "mapfiles" / f"{TABLE}.map"
            mapfile.write_text(mapfile.read_text().replace("EPSG:4269", "EPSG:4267"))
            yield server


def test_maps_in_nad27_use_the_operators_grid(server: MapServer) -> None:
    """The middle of the first frame, where its black half ends, is in the middle of a map that is centered there in NAD27."""
    (longitude,), (latitude,) = transform(CRS.from_epsg(3857), CRS.from_epsg(4326), [LEFT + SPAN / 2], [MIDDLE])
    x, y = longitude - SHIFT_SECONDS[0] / 3600, latitude - SHIFT_SECONDS[1] / 3600
    box = ",".join(map(str, (x - HALF_DEGREES, y - HALF_DEGREES, x + HALF_DEGREES, y + HALF_DEGREES)))
    size = {"WIDTH": str(2 * HALF_PX), "HEIGHT": str(2 * HALF_PX)}
    response = server.wms("GetMap", LAYERS=NAME, STYLES="", SRS="EPSG:4267", BBOX=box, FORMAT="image/png", **size)
    row = rgba(response)[HALF_PX, :, 0]
    # A pixel is one meter, and the shift of the grid is 190 m.
    assert set(row[: HALF_PX - 5]) == {0}
    assert set(row[HALF_PX + 5 :]) == {90}


def test_the_network_of_proj_is_switched_on_in_its_configuration(tmp_path: Path) -> None:
    assert write_proj_data(tmp_path / "a", None, False) == {}
    assert write_proj_data(tmp_path / "b", None, True) == {"PROJ_DATA": str(tmp_path / "b")}
    assert "\nnetwork = on\n" in (tmp_path / "b" / "proj.ini").read_text()
    # Again, after the setting was changed.
    write_proj_data(tmp_path / "b", write_grid(tmp_path / "grids").parent, False)
    assert "\nnetwork = on\n" not in (tmp_path / "b" / "proj.ini").read_text()
    assert (tmp_path / "b" / "us_noaa_conus.tif").is_file()


def test_a_missing_folder_of_grids_stops_the_map_server_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="LS4_PROJ_GRIDS"):
        write_proj_data(tmp_path / "a", tmp_path / "nowhere", False)
