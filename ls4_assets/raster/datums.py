"""Decide about the datum of a scan: which transformation moves it to the map, and what a scan without a known datum means.

Such a scan names only an ellipsoid ("unknown", "unnamed", "Not specified (based on Clarke 1866)", D_Unknown and others), and PROJ
would keep its latitude and longitude: the photograph would be up to some hundred meters off, without an error. PROJ's own list
of operations decides, and not a list of names. The operations are in `transformations`.
"""

from dataclasses import dataclass, replace

import pyproj
from pyproj.crs import Datum
from pyproj.exceptions import ProjError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from ls4_assets.domain.printable import printable
from ls4_assets.errors import FrameError
from ls4_assets.raster.transformations import UNIDENTIFIED, Transformation

# With one of these ellipsoids every datum in use is within about two meters of WGS 84: GRS 1980 and WGS 84.
_MODERN_RADIUS_M = 6_378_137.0
_MODERN_INVERSE_FLATTENING = (298.25, 298.26)
_SAME_ELLIPSOID_M = 0.5
"""Ellipsoids of other names but the same axes count as one: publishers round them differently."""
_ELLIPSOID_ONLY = ("Not specified", "Unknown")
NAD27 = 4267
# The only guess that a message makes: most scans on Clarke 1866 are of North America.
_SUGGESTED = (NAD27,)
_DEFAULT_ACCURACY_M = 5.0


@dataclass(frozen=True)
class DatumRules:
    """assumed: EPSG codes of geographic systems, each for scans of an unknown datum on its ellipsoid. accuracy_m: a stated
    accuracy worse than this is reported when a missing grid would improve it."""

    assumed: tuple[int, ...] = ()
    accuracy_m: float = _DEFAULT_ACCURACY_M


def has_unknown_datum(crs: CRS, transformation: Transformation) -> bool:
    """True when PROJ has no transformation for the datum of `crs`, and its ellipsoid is not that of a modern datum.

    Where no operation of PROJ gives GDAL's coordinates, only a datum that PROJ knows by name counts as known.
    """
    if transformation.is_ballpark:
        return not _is_modern(_ellipsoid(crs))
    return transformation.name == UNIDENTIFIED and not names_datum(crs)


def names_datum(crs: CRS) -> bool:
    """True for a datum that PROJ knows by name, or a modern one."""
    return _is_named(_horizontal(crs).datum) or _is_modern(_ellipsoid(crs))


def assume_datum(crs: CRS, codes: tuple[int, ...]) -> CRS | None:
    """Return `crs` with the datum of the first geographic system of `codes` that has its ellipsoid; None without one.

    A datum that has a name keeps it, even where PROJ cannot transform it.
    """
    if _is_named(_horizontal(crs).datum):
        return None
    ellipsoid = _ellipsoid(crs)
    for code in codes:
        try:
            geographic = pyproj.CRS.from_epsg(code)
        except ProjError as error:
            raise FrameError(
                f"The archive file assumes the datum of EPSG:{code}, which PROJ does not have; correct assumed_datums."
            ) from error
        if _is_same(ellipsoid, geographic.ellipsoid):
            return _replace_datum(crs, geographic)
    return None


def network_failure(error: BaseException) -> str | None:
    """Why PROJ could not fetch a grid; None for any other error."""
    text = printable(str(error))
    return text[:200] if "Cannot open http" in text else None


def mark_assumed(transformation: Transformation, crs: CRS) -> Transformation:
    """The transformation with a note that its datum is an assumption."""
    return replace(transformation, name=f"{transformation.name} (assumed {_horizontal(crs).datum.name}: the scan names no datum)")


def unknown_datum_error(name: str, crs: CRS, transformation: Transformation, sidecar: str | None = None) -> FrameError:
    """Return the rejection of the tif `name`: which grid its datum needs, or else a command that names another datum.

    `sidecar`: the file that names the CRS and holds the position too, so that it must stay; None for any other.
    """
    horizontal = _horizontal(crs)
    datum = horizontal.datum.name if horizontal.datum else "unknown"
    ellipsoid = horizontal.ellipsoid.name if horizontal.ellipsoid else "unknown"
    if transformation.missing_grids:
        return FrameError(
            f"{name} has the datum {datum}, for which PROJ needs the grid {', '.join(transformation.missing_grids)}; ask the "
            "operator to put it into the folder in LS4_PROJ_GRIDS, then run ls4 retry."
        )
    suggested = assume_datum(crs, _SUGGESTED)
    code = suggested.to_epsg() if suggested else None
    if_meant = ", if NAD27 is meant," if code else ""
    if sidecar:
        advice = f"drop a .prj with the CRS that {sidecar} is in beside it, which is{if_meant} the text EPSG:{code or 'CODE'}"
    else:
        advice = (
            f"write the CRS that it was georeferenced in into the tif{if_meant} with {assign_crs(code or 'CODE', name)}, delete "
            f"its .prj and .aux.xml and drop fixed.tif as {name}"
        )
    return FrameError(
        f'{name} has an unknown datum, or one that PROJ cannot transform there ("{datum}", ellipsoid "{ellipsoid}"), so its '
        f"place is uncertain by some hundred meters; {advice}, or ask the operator to add the datum to assumed_datums in the "
        "archive file."
    )


def assign_crs(code: int | str, name: str) -> str:
    """The command that writes the CRS of an EPSG code into a copy of the tif `name`."""
    return f"gdal_translate -a_srs EPSG:{code} {name} fixed.tif"


def _is_named(datum: Datum | None) -> bool:
    """True for a datum that PROJ has under its name, except those that EPSG keeps for an ellipsoid alone."""
    try:
        return datum is not None and not Datum.from_name(datum.name).name.startswith(_ELLIPSOID_ONLY)
    except ProjError:
        return False


def _horizontal(crs: CRS) -> pyproj.CRS:
    """The CRS without heights, as pyproj has it."""
    system = pyproj.CRS.from_wkt(crs.to_wkt())
    return system.sub_crs_list[0] if system.is_compound else system


def _ellipsoid(crs: CRS) -> pyproj.crs.Ellipsoid | None:
    return _horizontal(crs).ellipsoid


def _is_modern(ellipsoid: pyproj.crs.Ellipsoid | None) -> bool:
    if ellipsoid is None:
        return False
    low, high = _MODERN_INVERSE_FLATTENING
    is_flattened = low <= ellipsoid.inverse_flattening <= high
    return bool(abs(ellipsoid.semi_major_metre - _MODERN_RADIUS_M) <= _SAME_ELLIPSOID_M and is_flattened)


def _is_same(first: pyproj.crs.Ellipsoid | None, second: pyproj.crs.Ellipsoid | None) -> bool:
    if first is None or second is None:
        return False
    differences = (first.semi_major_metre - second.semi_major_metre, first.semi_minor_metre - second.semi_minor_metre)
    return all(abs(difference) <= _SAME_ELLIPSOID_M for difference in differences)


def _replace_datum(crs: CRS, geographic: pyproj.CRS) -> CRS | None:
    """The CRS with another datum, under its EPSG code if there is one; None when it is neither geographic nor projected."""
    horizontal = _horizontal(crs)
    document = horizontal.to_json_dict()
    if horizontal.is_geographic:
        replaced = geographic
    elif horizontal.is_projected:
        document["base_crs"] = geographic.to_json_dict()
        document.pop("id", None)
        replaced = pyproj.CRS.from_json_dict(document)
    else:
        return None
    code = replaced.to_epsg(min_confidence=70)
    try:
        return CRS.from_epsg(code) if code else CRS.from_wkt(replaced.to_wkt())
    except CRSError:
        return None
