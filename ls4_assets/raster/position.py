"""Choose between the positions that a tif and its sidecars give: the last word of staff counts, and contradictions are rejected.

Files that agree within a pixel are used in the order of `sidecar_readers.READERS`. Where they differ, the file that arrived after
the others had been processed is right; among files that arrived together it is unclear which is meant. The same holds for the
CRS. `georeference` checks that the result is a plausible place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from ls4_assets.domain.profiles import GcpTransformation
from ls4_assets.errors import FrameError, MissingGeoreferenceError
from ls4_assets.raster.control_points import ControlPointError, Fit, fit
from ls4_assets.raster.datums import DatumRules, names_datum
from ls4_assets.raster.gdal_env import GDAL_ERRORS
from ls4_assets.raster.sidecar_readers import HEADER, Reading, read_all

WEB_MERCATOR = CRS.from_epsg(3857)
EARTH_RADIUS_M = 6_378_137.0
"""Radius of the sphere of EPSG:3857."""
MAX_SHIFT_PX = 1.0
"""Positions that differ by less at all corners count as equal: world files are rounded."""


@dataclass(frozen=True)
class PositionOptions:
    """generations: in which order the tif and its sidecars arrived, by suffix (`ls4_assets.ingest.arrivals`); all that are not
    named have the first.
    datums: for a scan of an unknown datum.
    gcp_transformation, max_gcp_rms_px: how control points place a scan, and the largest accepted root mean square of their
        residuals.
    """

    generations: Mapping[str, int] = field(default_factory=dict)
    gcp_transformation: GcpTransformation = "auto"
    max_gcp_rms_px: float = 30.0
    datums: DatumRules = field(default_factory=DatumRules)

    def generation(self, reading: Reading) -> int:
        """When the file arrived. A tif that is dropped again says nothing of its sidecars, so these count as dropped with it."""
        return max(self.generations.get(suffix, 0) for suffix in (reading.suffix, HEADER))


@dataclass(frozen=True)
class Position:
    """Where a scan of `size` pixels lies: by a geotransform or by control points, in a CRS, with the file that each is from.

    note: what people should know of the choice; empty when all files agree.
    """

    size: tuple[int, int]
    reading: Reading
    crs_reading: Reading
    crs: CRS
    transform: Affine
    control_points: Fit | None = None
    note: str = ""

    def corners(self) -> NDArray[np.float64]:
        """Coordinates of the image's corners in the CRS, clockwise from pixel 0, 0; shape (4, 2)."""
        width, height = self.size
        pixels = np.array([(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)])
        if self.control_points:
            return self.control_points.to_map(pixels)
        return np.array([self.transform @ (column, row) for column, row in pixels])


def read_position(
    path: Path, size: tuple[int, int], options: PositionOptions, readings: Sequence[Reading] | None = None
) -> Position:
    """Return the position of the scan at `path`; raises FrameError when it has none, or contradictory ones.

    `readings`: what its files say of the photograph, where that is not the first image of the file.
    """
    readings = read_all(path) if readings is None else readings
    # A geotransform needs no fit, so it comes before points that agree with it.
    located = sorted((reading for reading in readings if reading.has_position), key=lambda reading: reading.transform is None)
    unreadable = [reading for reading in readings if reading.error]
    chosen = _last_word(located, options)
    _reject_unreadable(unreadable, chosen, options)
    if not chosen:
        raise MissingGeoreferenceError(
            f"{path.name} has no georeference; drop its world file (.tfw) and .prj beside it, or a georeferenced GeoTIFF."
        )
    first, *others = [_place(path, size, reading, readings, options) for reading in chosen]
    for other in others:
        if (shift := _shift(first, other))[1] > MAX_SHIFT_PX:
            raise FrameError(_explain_positions(path, first, other, shift[0]))
    older = [reading for reading in located if reading not in chosen]
    return _with_note(first, path, older, readings, options)


def _last_word(readings: Sequence[Reading], options: PositionOptions) -> list[Reading]:
    """The readings that arrived last, in their order."""
    last = max((options.generation(reading) for reading in readings), default=0)
    return [reading for reading in readings if options.generation(reading) == last]


def _reject_unreadable(unreadable: Sequence[Reading], chosen: Sequence[Reading], options: PositionOptions) -> None:
    """Raise for a file that may hold the last word, or the only one. An unreadable file that came with a good one is ignored."""
    for reading in unreadable:
        if not chosen or options.generation(reading) > options.generation(chosen[0]):
            raise FrameError(reading.error)


def _place(
    path: Path, size: tuple[int, int], reading: Reading, readings: Sequence[Reading], options: PositionOptions
) -> Position:
    """The position that one reading gives, in the CRS that goes with it."""
    positions = [_in_crs(path, size, reading, crs, options) for crs in _crs_readings(path, reading, readings, options)]
    first, *others = positions
    for other in others:
        if first.crs != other.crs and (shift := _shift(first, other))[1] > MAX_SHIFT_PX:
            raise FrameError(_explain_crs(path, first, other, shift[0]))
    # Of files that agree, one that names a datum says more than one that names only an ellipsoid.
    return next((each for each in positions if others and names_datum(each.crs)), first)


def _crs_readings(path: Path, reading: Reading, readings: Sequence[Reading], options: PositionOptions) -> list[Reading]:
    """The readings whose CRS may be that of the reading's coordinates, of those that arrived last.

    A file that has only a CRS, such as a .prj, is about all coordinates. One that has a position too is about its own, and about
    those of a world file if no other names a CRS.
    """
    bare = [each for each in readings if each.crs and not each.has_position]
    own = [each for each in readings if each is reading and each.crs]
    candidates = [each for each in readings if each in bare or each in own] or [each for each in readings if each.crs]
    unreadable = [each for each in readings if each.error and each.suffix == ".prj"]
    _reject_unreadable(unreadable, _last_word(candidates, options), options)
    if not candidates:
        raise MissingGeoreferenceError(
            f"{path.name} has a {'geotransform' if reading.transform else 'set of ground control points'} but no coordinate "
            "reference system; drop its .prj beside it, or write it into the tif with gdal_edit.py -a_srs."
        )
    return _last_word(candidates, options)


def _in_crs(path: Path, size: tuple[int, int], reading: Reading, crs_reading: Reading, options: PositionOptions) -> Position:
    assert crs_reading.crs is not None
    if reading.transform is not None:
        return Position(size, reading, crs_reading, crs_reading.crs, reading.transform)
    try:
        fitted = fit(reading.points, crs_reading.crs, *size, options.gcp_transformation)
    except ControlPointError as error:
        raise FrameError(f"{path.name} {error}, and drop {_file(path, reading)} again.") from error
    return Position(size, reading, crs_reading, crs_reading.crs, fitted.approximation, fitted)


def _file(path: Path, reading: Reading) -> str:
    return path.name if reading.suffix == HEADER else reading.name


def _on_map(position: Position) -> NDArray[np.float64] | None:
    """The corners in EPSG:3857; None where they cannot be projected."""
    corners = position.corners()
    if not np.isfinite(corners).all():
        return None
    try:
        projected = np.array(transform_points(position.crs, WEB_MERCATOR, corners[:, 0], corners[:, 1])).T
    except GDAL_ERRORS:
        return None
    return projected if np.isfinite(projected).all() else None


def _shift(first: Position, second: Position) -> tuple[float, float]:
    """Largest distance between equal corners of two positions, in meters on the ground and in pixels of the first."""
    here, there = _on_map(first), _on_map(second)
    if here is None or there is None:
        return (0.0, 0.0) if here is there is None and first.crs == second.crs else (np.inf, np.inf)
    distance = float(np.hypot(*(here - there).T).max())
    pixel = min(np.hypot(*(here[1] - here[0])) / first.size[0], np.hypot(*(here[3] - here[0])) / first.size[1])
    scale = 1 / np.cosh(here[:, 1].mean() / EARTH_RADIUS_M)
    return distance * scale, distance / pixel if pixel > 0 else np.inf


def _describe_place(position: Position) -> str:
    """Latitude and longitude of the center."""
    corners = _on_map(position)
    if corners is None:
        return "outside the area of its coordinate system"
    longitudes, latitudes = transform_points(WEB_MERCATOR, CRS.from_epsg(4326), *np.mean(corners, axis=0)[:, None])
    return f"at latitude {latitudes[0]:.5f}, longitude {longitudes[0]:.5f}"


def _describe_distance(meters: float) -> str:
    if not np.isfinite(meters):
        return "far away"
    if meters >= 10_000:
        return f"{meters / 1000:,.0f} km away"
    return f"{meters:,.0f} m away" if meters >= 10 else f"{meters:.1f} m away"


def _advise(path: Path, first: Reading, second: Reading) -> str:
    """What to do about two files that contradict each other; a test follows both halves of it."""
    if HEADER not in (first.suffix, second.suffix):
        return "delete the wrong one of the two, or drop the right one again"
    sidecar = second if first.suffix == HEADER else first
    return f"delete {sidecar.name} if the header of the tif is right, or drop {sidecar.name} again if it is right"


def _explain_positions(path: Path, first: Position, second: Position, meters: float) -> str:
    return (
        f"{path.name} has two positions: {first.reading.label} places it {_describe_place(first)}, and {second.reading.label} "
        f"{_describe_place(second)}, {_describe_distance(meters)}; {_advise(path, first.reading, second.reading)}."
    )


def _explain_crs(path: Path, first: Position, second: Position, meters: float) -> str:
    return (
        f"{path.name} has two coordinate systems: with {crs_label(first.crs)} of {first.crs_reading.label} it lies "
        f"{_describe_place(first)}, and with {crs_label(second.crs)} of {second.crs_reading.label} {_describe_place(second)}, "
        f"{_describe_distance(meters)}; {_advise(path, first.crs_reading, second.crs_reading)}."
    )


def _with_note(
    position: Position, path: Path, older: Sequence[Reading], readings: Sequence[Reading], options: PositionOptions
) -> Position:
    """The position with a note on the first older reading, of a position or of a CRS, that it overrules."""
    notes = []
    for reading in older:
        try:
            overruled = _place(path, position.size, reading, readings, options)
        except FrameError:
            continue
        meters, pixels = _shift(position, overruled)
        if pixels > MAX_SHIFT_PX:
            notes.append(f"dropped after {reading.label}, which lies {_describe_distance(meters)}")
    notes += _overruled_crs(position, path, readings, options)
    return replace(position, note=notes[0] if notes else "")


def _overruled_crs(position: Position, path: Path, readings: Sequence[Reading], options: PositionOptions) -> list[str]:
    """What the CRS of an older file would have meant for the same coordinates."""
    notes, latest = [], options.generation(position.crs_reading)
    for reading in readings:
        if reading.crs is None or reading.crs == position.crs or options.generation(reading) >= latest:
            continue
        try:
            overruled = _in_crs(path, position.size, position.reading, reading, options)
        except FrameError:
            continue
        meters, pixels = _shift(position, overruled)
        if pixels > MAX_SHIFT_PX:
            newer, place = position.crs_reading.label, _describe_distance(meters)
            notes.append(f"the CRS of {newer} was dropped after {reading.label}, whose CRS places it {place}")
    return notes


def crs_label(crs: CRS) -> str:
    """A CRS for people: its code, else its name."""
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.to_wkt().split('"')[1])
