"""`ls4 doctor`: which of PROJ's grids the archive's region needs and are missing, and which frames were made without them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyproj.aoi import AreaOfInterest
from pyproj.database import CRSInfo, query_crs_info
from pyproj.enums import PJType
from rasterio.crs import CRS
from sqlalchemy import Connection, func, select

from ls4_assets.db.schema import frame
from ls4_assets.domain.regions import RegionBounds, load_outlines
from ls4_assets.raster.proj_setup import list_with_grids
from ls4_assets.raster.transformations import NONE, BetterOperation, Degrees, find_transformation, list_better, stated_accuracy
from ls4_assets.settings import Settings

_WORLD = (-180.0, -85.0, 180.0, 85.0)


@dataclass(frozen=True)
class Grid:
    """A missing grid. `systems`: coordinate systems whose transformations need it. `is_needed`: without it one of them is less
    accurate than LS4_DATUM_ACCURACY_M; otherwise the grid only improves them further."""

    name: str
    url: str
    systems: tuple[str, ...]
    is_needed: bool


@dataclass(frozen=True)
class GridReport:
    """What `ls4 doctor` found. `frames`: number of frames by collection that were made without a grid that they need.
    `unknown`: those of which it is not known, because they were made before it was recorded, and whose datum may need a grid."""

    folder: str | None
    is_network_on: bool
    missing: tuple[Grid, ...]
    frames: Mapping[str, int]
    unknown: Mapping[str, int]

    @property
    def is_complete(self) -> bool:
        return not self.frames and not self.unknown and (self.is_network_on or not any(grid.is_needed for grid in self.missing))


def inspect_grids(settings: Settings, connection: Connection) -> GridReport:
    """Compare the grids with what scans and maps of the region need. Raises ConfigurationError for an unreadable folder."""
    area = archive_area(settings.region_bounds)
    # What is in the folder counts, whether the network is on or not.
    with list_with_grids(settings.proj_grids):
        missing = find_missing_grids(_list_systems(settings, connection, area), area, settings.datum_accuracy_m)
    counts = select(frame.c.collection, func.count()).where(frame.c.missing_grids != []).group_by(frame.c.collection)
    frames = dict(connection.execute(counts.order_by(frame.c.collection)).tuples().all())
    unknown = _count_unknown(connection, area)
    return GridReport(str(settings.proj_grids or "") or None, settings.proj_network, missing, frames, unknown)


def _count_unknown(connection: Connection, area: Degrees) -> dict[str, int]:
    """Number of live frames by collection whose transformation was not recorded, without those whose CRS needs none."""
    columns = (frame.c.collection, frame.c.source_crs)
    query = select(*columns, func.count()).where(frame.c.missing_grids.is_(None), ~frame.c.deleted).group_by(*columns)
    rows = connection.execute(query.order_by(frame.c.collection)).tuples().all()
    counts: dict[str, int] = defaultdict(int)
    unshifted = {crs for crs in {crs for _, crs, _ in rows} if crs and _is_unshifted(crs, area)}
    for collection, crs, count in rows:
        if crs not in unshifted:
            counts[collection] += count
    return dict(counts)


def _is_unshifted(label: str, area: Degrees) -> bool:
    """True for a CRS that is based on the datum of the map; False for one that is known by its name only."""
    if not label.startswith("EPSG:"):
        return False
    return find_transformation(CRS.from_string(label), area) == NONE


def archive_area(bounds: RegionBounds) -> Degrees:
    """The bounds of all regions of the archive; the world without any."""
    boxes = [*bounds.extents.values(), *([bounds.extent] if bounds.extent else [])]
    for rings in load_outlines(bounds.outlines).values() if bounds.outlines else ():
        points = [point for ring in rings for point in ring]
        boxes += [(min(x for x, _ in points), min(y for _, y in points), max(x for x, _ in points), max(y for _, y in points))]
    if not boxes:
        return _WORLD
    west, south, east, north = zip(*boxes, strict=True)
    return min(west), min(south), max(east), max(north)


def find_missing_grids(systems: Mapping[str, CRS], area: Degrees, accuracy_m: float) -> tuple[Grid, ...]:
    """Return the grids that transformations from `systems` to the map would use in `area`, the needed ones first."""
    users: dict[str, set[str]] = defaultdict(set)
    needed: set[str] = set()
    urls: dict[str, str] = {}
    for name, crs in systems.items():
        better = list_better(crs, area)
        for operation in better:
            for grid, url in operation.missing.items():
                users[grid].add(name)
                urls[grid] = url
        needed |= _needed(better, stated_accuracy(crs, area), accuracy_m)
    grids = [Grid(name, urls[name], tuple(sorted(users[name])), name in needed) for name in users]
    return tuple(sorted(grids, key=lambda grid: (not grid.is_needed, grid.name)))


def _needed(better: list[BetterOperation], current_m: float | None, accuracy_m: float) -> set[str]:
    """The fewest grids with which the accuracy is sufficient; none when it is so already, or cannot be."""
    if current_m is not None and current_m <= accuracy_m:
        return set()
    sufficient = [set(operation.missing) for operation in better if operation.accuracy_m <= accuracy_m]
    return min(sufficient, key=len, default=set())


def _list_systems(settings: Settings, connection: Connection, area: Degrees) -> dict[str, CRS]:
    """Coordinate systems of scans and maps, by name: those of the region, past and present, of the services and of the frames."""
    description = settings.archive_description
    codes = {f"EPSG:{code}" for code in (*description.capabilities.epsg_codes, *description.assumed_datums)}
    codes |= set(connection.scalars(select(frame.c.source_crs).where(frame.c.source_crs.like("EPSG:%")).distinct()))
    names = _list_regional_systems(area) | {code: code for code in codes}
    return {name: CRS.from_string(code) for code, name in names.items()}


def _list_regional_systems(area: Degrees) -> dict[str, str]:
    """Names, by code, of the geographic systems in which maps of the area are drawn: they are the base of a projected system.

    The many other systems, such as those of satellite orbits, are of no use for a photograph.
    """

    def query(kind: PJType) -> list[CRSInfo]:
        return query_crs_info(auth_name="EPSG", pj_types=kind, area_of_interest=AreaOfInterest(*area), contains=False)

    # "NAD27 / UTM zone 14N" is based on NAD27.
    bases = {info.name.partition(" / ")[0] for info in query(PJType.PROJECTED_CRS)}
    return {f"EPSG:{info.code}": info.name for info in query(PJType.GEOGRAPHIC_2D_CRS) if info.name in bases}


def format_report(report: GridReport) -> Iterator[str]:
    """Yield the lines of the report for a terminal."""
    folder = report.folder or "none; set LS4_PROJ_GRIDS to a folder for them"
    yield f"PROJ grids: {folder}"
    yield f"PROJ network: {'on' if report.is_network_on else 'off'}"
    fetched = ", which PROJ fetches when it first needs them" if report.is_network_on else ""
    for is_needed, title in (
        (True, f"Needed and missing{fetched}:"),
        (False, "Not needed, but would improve the accuracy further:"),
    ):
        if grids := [grid for grid in report.missing if grid.is_needed is is_needed]:
            yield title
            yield from (f"  {grid.url or grid.name}    for {_shorten(grid.systems)}" for grid in grids)
    if not report.is_network_on and any(grid.is_needed for grid in report.missing):
        yield "Download the needed grids into that folder, restart the services, and run this command again."
    for collection, count in report.frames.items():
        yield f"{count} frames of {collection} were made without a grid; when it is there, run: ls4 rematerialize {collection}"
    for collection, count in report.unknown.items():
        yield f"The transformation of {count} frames of {collection} is not known; run: ls4 rematerialize {collection}"
    if report.is_complete:
        yield "All needed grids are there."


def _shorten(systems: tuple[str, ...], limit: int = 4) -> str:
    more = f" and {len(systems) - limit} more" if len(systems) > limit else ""
    return ", ".join(systems[:limit]) + more
