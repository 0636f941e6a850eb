"""The archive file: one TOML file with all that distinguishes one archive from another, such as counties, services and base map.

`read_archive_file` validates it and raises a ConfigurationError with one sentence for what is wrong first. The pipeline
(`ls4_assets.settings`) and the map server (`mapserver`) read the same file. docs/reference/settings.md describes each key, and
`regions` has the file that ships with ls4.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from ls4_assets.domain.capabilities import Capabilities
from ls4_assets.domain.contact import Contact
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.key_parser import parse_collection_path
from ls4_assets.domain.names import Collection, Naming, ShardKind, Shards
from ls4_assets.domain.regions import Extent, RegionBounds, load_outlines
from ls4_assets.domain.rights import CITATION_FIELDS, ArchiveRights, Rights
from ls4_assets.errors import ConfigurationError, InvalidNameError

SHIPPED = Path(__file__).parent / "regions"
DEFAULT_FILE = SHIPPED / "texas.toml"
# Tiles and web maps request the first, so every archive offers it.
WEB_MERCATOR = 3857
_DEFAULT_TITLE = "Aerial photographs"
_DEFAULT_EPSG_CODES = (WEB_MERCATOR, 4326)
_WORLD: Extent = (-180.0, -85.0, 180.0, 85.0)
_SHARD_NAME = re.compile(r"[A-Za-z0-9]+")
_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")


@dataclass(frozen=True)
class MapPage:
    """What the map page shows besides the collections.

    base_map: TopoJSON or GeoJSON of land and counties. base_map_credit: its source, named on the page.
    view: what is shown before there are collections, in degrees. gazetteer: a file of place names.
    """

    base_map: Path | None
    base_map_credit: str | None
    view: Extent
    gazetteer: Path | None


@dataclass(frozen=True)
class ArchiveDescription:
    """The content of an archive file. `organization` publishes the archive; `rights` of its photographs.

    assumed_datums: EPSG codes of geographic systems: what a scan of an unknown datum means, by its ellipsoid.
    """

    title: str
    organization: str | None
    rights: ArchiveRights
    naming: Naming
    region_bounds: RegionBounds
    assumed_datums: tuple[int, ...]
    capabilities: Capabilities
    page: MapPage


def read_archive_file(path: Path | None) -> ArchiveDescription:
    """The archive described in a TOML file; None: the file that ships with ls4. Raises ConfigurationError."""
    file = path or DEFAULT_FILE
    try:
        status = file.stat()
        return _read_version(file, (status.st_mtime_ns, status.st_size, status.st_ino))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The archive file {file} cannot be read ({error}); correct LS4_ARCHIVE_FILE.") from None


@lru_cache(maxsize=4)
def _read_version(file: Path, version: tuple[int, int, int]) -> ArchiveDescription:
    """Read once per version of the file: every tick of a sensor needs it, and the base map alone takes 30 ms."""
    content = tomllib.loads(file.read_text(encoding="utf-8"))
    table = _Table(file, content)
    shards = _read_shards(table)
    title = table.text("title") or _DEFAULT_TITLE
    rights = _read_rights(table)
    description = ArchiveDescription(
        title=title,
        organization=table.text("organization"),
        rights=rights,
        naming=_read_naming(table, shards),
        region_bounds=_read_region_bounds(table, shards),
        assumed_datums=table.codes("assumed_datums", (), "[4267]"),
        capabilities=_read_capabilities(table, title, rights.archive),
        page=_read_page(table),
    )
    table.reject_unknown_keys()
    return description


class _Table:
    """A TOML table. Each method takes one key out of it and raises ConfigurationError for a value of the wrong kind."""

    def __init__(self, file: Path, content: Mapping[str, Any], name: str = "") -> None:
        self.file, self.content, self.name = file, dict(content), name
        self.keys: set[str] = set()

    def error(self, message: str) -> ConfigurationError:
        return ConfigurationError(f"{self.file}: {self.name and f'[{self.name}] '}{message}")

    def take(self, key: str) -> Any:
        self.keys.add(key)
        return self.content.get(key)

    def text(self, key: str, *, is_address: bool = False) -> str | None:
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{key} must be a text; write it in quotation marks.")
        # A mapfile must not name a host, because it would be served from any.
        if bool(re.match(r"https?://", value)) != is_address or (not is_address and "://" in value):
            advice = "write one that starts with https://" if is_address else "the address of a license belongs in license_url"
            raise self.error(f"{key} {'must be' if is_address else 'must not contain'} an address; {advice}.")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f'{key} must be a list of names; write it like {key} = ["Adams"].')
        return tuple(value)

    def epsg_codes(self, key: str) -> tuple[int, ...]:
        value = self.codes(key, _DEFAULT_EPSG_CODES, "[3857, 4326, 32719]")
        if WEB_MERCATOR not in value or len(set(value)) < len(value):
            raise self.error(f"{key} must contain 3857, which web maps request, and no code twice; correct the list.")
        return value

    def codes(self, key: str, default: tuple[int, ...], example: str) -> tuple[int, ...]:
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, list) or not all(type(item) is int and 1024 <= item <= 999_999 for item in value):
            raise self.error(f"{key} must be a list of EPSG codes; write it like {key} = {example}.")
        return tuple(value)

    def extent(self, key: str) -> Extent | None:
        value = self.take(key)
        if value is None:
            return None
        is_extent = isinstance(value, list) and len(value) == 4 and all(type(side) in (int, float) for side in value)
        if not is_extent or not (-180 <= value[0] < value[2] <= 180 and -90 <= value[1] < value[3] <= 90):
            raise self.error(f"{key} = {value} is not an extent; write degrees as [west, south, east, north].")
        west, south, east, north = map(float, value)
        return west, south, east, north

    def file_path(self, key: str, shipped: Path | None = None) -> Path | None:
        """A file beside the archive file, or the name of one that ships with ls4 in the folder `shipped`."""
        value = self.take(key)
        if value is None:
            return None
        names = sorted(path.stem for path in shipped.glob("*.json")) if shipped else []
        if shipped and value in names:
            return shipped / f"{value}.json"
        path = self.file.parent / value if isinstance(value, str) else self.file.parent
        if not path.is_file():
            ships = f", or use one that ships with ls4: {', '.join(names)}" if names else ""
            raise self.error(f"{key} = {value!r} is not a file beside the archive file; correct the path{ships}.")
        return path

    def table(self, key: str) -> "_Table":
        value, name = self.take(key), ".".join(filter(None, (self.name, key)))
        if value is not None and not isinstance(value, dict):
            raise self.error(f"{key} must be a table; write it below a line [{name}].")
        return _Table(self.file, value or {}, name)

    def reject_unknown_keys(self) -> None:
        if unknown := sorted(self.content.keys() - self.keys):
            raise self.error(f"{', '.join(unknown)} is not a key of an archive file; use {', '.join(sorted(self.keys))}.")


def _read_shards(table: _Table) -> Shards:
    shards: dict[str, ShardKind] = {}
    for kind in get_args(ShardKind):
        for name in table.texts(kind):
            if not _SHARD_NAME.fullmatch(name):
                raise table.error(f"the name of a shard may contain only letters and digits; correct {name}.")
            if name in shards:
                raise table.error(f"{name} is listed twice; remove one of the two.")
            shards[name] = kind
    if not shards:
        raise table.error(f"the archive has no shards; list at least one under {', '.join(get_args(ShardKind))}.")
    return shards


def _read_naming(table: _Table, shards: Shards) -> Naming:
    agencies = frozenset(table.texts("agencies_without_rolls"))
    naming = Naming(shards, agencies, table.text("example") or _example(shards))
    try:
        parse_collection_path(naming.example, naming)
    except InvalidNameError as error:
        raise table.error(f"example is not a collection of this archive: {error}") from None
    return naming


def _example(shards: Shards) -> str:
    first, kind = next(iter(shards.items()))
    agency = next((name for name, kind in shards.items() if kind == "agency"), "USDA")
    survey = f"{agency}_1958" if kind == "county" else "1958"
    return f"{next(iter(FILM_TYPES))}/{first}/{survey}/frames"


def _read_region_bounds(table: _Table, shards: Shards) -> RegionBounds:
    by_shard = table.table("extents")
    extents = {shard: extent for shard in by_shard.content if (extent := by_shard.extent(shard))}
    outlines = table.file_path("outlines", SHIPPED / "outlines")
    if outlines:
        try:
            load_outlines(outlines)
        except (KeyError, TypeError, ValueError) as error:
            raise table.error(f"outlines cannot be read from {outlines} ({error}); write GeoJSON polygons.") from None
    if unknown := sorted(extents.keys() - shards.keys()):
        raise table.error(f"[extents] {', '.join(unknown)} is not a shard of this archive; correct the name.")
    return RegionBounds(outlines, table.extent("extent"), extents)


def _read_contact(table: _Table) -> Contact | None:
    part, organization = table.table("contact"), table.text("organization")
    if not part.content:
        return None
    names = [field.name for field in fields(Contact) if field.name != "organization"]
    values = {name: part.text(name) or "" for name in names}
    part.reject_unknown_keys()
    if missing := [name for name, value in values.items() if not value]:
        raise part.error(f"{', '.join(missing)} is missing: WMS needs the complete contact; add it, or remove the table.")
    if organization is None:
        raise table.error("a contact needs the organization; add `organization` at the top of the file.")
    return Contact(organization=organization, **values)


def _read_rights(table: _Table) -> ArchiveRights:
    part, named = table.table("rights"), {}
    for name in part.content:
        if not _SHARD_NAME.fullmatch(name) and Collection.from_name(name) is None:
            raise part.error(f"{name} is neither an agency nor the name of a collection; write it like Adams_USDA_1958_frames.")
        own = part.table(name)
        named[name] = _read_rights_of(own)
        own.reject_unknown_keys()
    return ArchiveRights(_read_rights_of(table), named, table.text("organization"))


def _read_rights_of(table: _Table) -> Rights:
    citation = table.text("citation")
    try:
        (citation or "").format(**dict.fromkeys(CITATION_FIELDS, ""))
    except (KeyError, ValueError, IndexError, AttributeError):
        names = ", ".join(f"{{{name}}}" for name in CITATION_FIELDS)
        raise table.error(f"citation contains an unknown field in braces; use {names}.") from None
    return Rights(
        license=table.text("license"),
        license_url=table.text("license_url", is_address=True),
        license_id=table.text("license_id"),
        attribution=table.text("attribution"),
        citation=citation,
    )


def _read_capabilities(table: _Table, title: str, rights: Rights) -> Capabilities:
    part = table.table("services")
    background = part.text("background") or Capabilities.background
    if not _COLOR.fullmatch(background):
        raise part.error(f"background = {background!r} is not a color; write it like #ffffff.")
    capabilities = Capabilities(
        title=part.text("title") or title,
        epsg_codes=part.epsg_codes("epsg"),
        license=rights.license,
        attribution=rights.attribution,
        contact=_read_contact(table),
        background=background,
    )
    part.reject_unknown_keys()
    return capabilities


def _read_page(table: _Table) -> MapPage:
    part = table.table("page")
    page = MapPage(
        base_map=part.file_path("base_map", SHIPPED / "base_maps"),
        base_map_credit=part.text("base_map_credit"),
        view=part.extent("view") or table.extent("extent") or _WORLD,
        gazetteer=part.file_path("gazetteer"),
    )
    part.reject_unknown_keys()
    if page.base_map and not _is_base_map(page.base_map):
        raise part.error(f"base_map {page.base_map} is neither TopoJSON nor GeoJSON; convert the file.")
    return page


def _is_base_map(path: Path) -> bool:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(document, dict) and document.get("type") in ("Topology", "FeatureCollection")
