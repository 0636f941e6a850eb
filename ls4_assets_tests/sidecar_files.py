"""Sidecars that place a scan of 50 x 60 pixels at one place, as each program writes them."""

from collections.abc import Callable
from typing import Any

from affine import Affine
from rasterio.crs import CRS

from ls4_assets_tests.rasters import UTM_PLACE

UTM = CRS.from_epsg(26914)
WEST, NORTH = UTM_PLACE
TRANSFORM = Affine(2, 0, WEST, 0, -2, NORTH)
WIDTH, HEIGHT = 50, 60
HEADER: dict[str, Any] = {"crs": UTM, "transform": TRANSFORM}
NO_GEOREFERENCE: dict[str, Any] = {"crs": None, "transform": Affine.identity()}
ESRI_WKT = UTM.to_wkt(version="WKT1_ESRI")
POINTS = [(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT)]


def world_file(transform: Affine = TRANSFORM) -> str:
    x, y = transform @ (0.5, 0.5)
    return "".join(f"{number}\n" for number in (transform.a, transform.d, transform.b, transform.e, x, y))


def doubles(numbers: list[float]) -> str:
    return "".join(f"<Double>{number}</Double>" for number in numbers)


def qgis_points(transform: Affine = TRANSFORM, crs: str = "EPSG:26914") -> str:
    lines = [f"#CRS: {crs}", "mapX,mapY,sourceX,sourceY,enable,dX,dY,residual"]
    lines += ["{},{},{},{},1,0,0,0".format(*(transform @ point), point[0], -point[1]) for point in POINTS]
    return "\n".join([*lines, "0,0,1,-1,0,0,0,0"])


def arcgis_points(transform: Affine = TRANSFORM) -> str:
    source = doubles([float(value) for column, row in POINTS for value in (column, -row)])
    target = doubles([value for point in POINTS for value in transform @ point])
    return (
        '<PAMDataset><Metadata domain="xml:ESRI" format="xml"><GeodataXform xsi:type="typens:PolynomialXform" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:typens="http://www.esri.com/schemas/ArcGIS/10.3">'
        f'<SpatialReference xsi:type="typens:ProjectedCoordinateSystem"><WKT>{ESRI_WKT}</WKT></SpatialReference>'
        f"<SourceGCPs>{source}</SourceGCPs><TargetGCPs>{target}</TargetGCPs></GeodataXform></Metadata></PAMDataset>"
    )


def pam(transform: Affine = TRANSFORM, srs: str = ESRI_WKT) -> str:
    return f"<PAMDataset><SRS>{srs}</SRS><GeoTransform>{', '.join(map(str, transform.to_gdal()))}</GeoTransform></PAMDataset>"


def pam_points(transform: Affine = TRANSFORM) -> str:
    points = "".join(
        '<GCP Id="{}" Pixel="{}" Line="{}" X="{}" Y="{}"/>'.format(number, *point, *(transform @ point))
        for number, point in enumerate(POINTS)
    )
    return f'<PAMDataset><GCPList Projection="EPSG:26914">{points}</GCPList></PAMDataset>'


def mapinfo(transform: Affine = TRANSFORM) -> str:
    corners = ",\n".join('  ({},{}) ({},{}) Label "Pt"'.format(*(transform @ point), *point) for point in POINTS)
    return (
        '!table\n!version 300\n!charset WindowsLatin1\n\nDefinition Table\n  File "a.tif"\n  Type "RASTER"\n'
        f'{corners}\n  CoordSys Earth Projection 8, 74, "m", -99, 0, 0.9996, 500000, 0\n  Units "m"\n'
    )


CONTENTS: dict[str, Callable[[Affine], str]] = {
    ".tfw": world_file,
    ".tfwx": world_file,
    ".tifw": world_file,
    ".wld": world_file,
    ".tif.aux.xml": pam,
    ".aux.xml": pam,
    ".tab": mapinfo,
    ".tif.points": qgis_points,
    ".points": qgis_points,
}
