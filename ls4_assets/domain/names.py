"""The grammar of the archive: keys, collections, frames, and the attributes that a file name carries.

Every name in the platform is made or read here and nowhere else (but keys of what is exported: exports/names.py); nothing here
touches storage. The grammar is the contract with the staff who drop scans and with published maps (docs/naming.md), so it changes
only on purpose. Parse and format are a round trip over frozen dataclasses.
"""

import datetime
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, cast, get_args

from ls4_assets.errors import InvalidNameError

FilmType = Literal["bw", "nc"]
FrameType = Literal["frames", "index", "mosaic"]
Step = Literal["deflate", "overviews", "cog"]
ShardKind = Literal["county", "agency", "programme"]
Shards = Mapping[str, ShardKind]

FILM_TYPES: tuple[FilmType, ...] = get_args(FilmType)
TYPES: tuple[FrameType, ...] = get_args(FrameType)
STEPS: tuple[Step, ...] = get_args(Step)
# What follows from the frames of a collection, in its order.
COLLECTION_STEPS = ("tile_index", "overview_mosaic", "mapfile", "exports")

TIF_SUFFIXES = (".tif", ".tiff")
SHAPEFILE_SUFFIXES = (".shp", ".shx", ".dbf", ".prj", ".cpg")
STRATMAP = "StratMap"
NO_ROLL_AGENCIES = frozenset({"AMS", "USGS"})
# PostgreSQL cuts identifiers at 63 bytes; index and constraint names are made from the table's name.
MAX_NAME = 50

_DATE = r"(?P<date>\d{2}-\d{2}-\d{2})"
_WORD = r"[A-Za-z0-9]+"
_FRAME = re.compile(rf"{_DATE}_(?P<roll>{_WORD})-(?P<frame_num>{_WORD})")
_FRAME_NO_ROLL = re.compile(rf"{_DATE}_(?P<frame_num>{_WORD})")
_INDEX = re.compile(rf"(?P<scan>(?P<roll>{_WORD})_(?P<date>\d{{4}})_(?P<frame_num>{_WORD}?)(?:_\d+dpi)?)(?:_(?P<tile>{_WORD}))?")
_MOSAIC = re.compile(r"mosaic(?P<frame_num>\d{2,})")
_STRATMAP = re.compile(rf"(?P<roll>{_WORD})_(?P<frame_num>{_WORD})_{_DATE}(?:_(?P<epsg>\d{{4,6}}))?")
_SECOND = re.compile(r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*")
_AGENCY_YEAR = re.compile(r"[A-Za-z0-9]+_(?:18|19|20)\d{2}")
_YEAR = re.compile(r"(?:^|_)((?:18|19|20)\d{2})(?:_|$)")

_SHAPES = {
    "frames": "MM-DD-YY_<roll>-<frame>.tif, for example 02-08-60_6-107.tif",
    "no_roll": "MM-DD-YY_<frame>.tif, for example 03-10-54_1234.tif",
    "stratmap": "<roll>_<frame>_<MM-DD-YY>.tif, for example 3_107_02-08-96.tif",
    "index": "<AGENCY>_<YYYY>_<SHEET>.tif, for example USDA_1958_1.tif",
    "mosaic": "mosaic<NN>.tif, for example mosaic01.tif",
}


@dataclass(frozen=True, order=True)
class Collection:
    """One county, agency and year (or one mission) of one type; both bands of a mission belong to it.

    `shard` is the first path segment after the band, `survey` the next one: AGENCY_YYYY, a mission or a StratMap name.
    """

    shard: str
    survey: str
    type: FrameType

    @property
    def name(self) -> str:
        """Name of the index and prefix of the layers: Travis_USDA_1958_frames."""
        return f"{self.shard}_{self.survey}_{self.type}"

    @property
    def table(self) -> str:
        return self.name.lower()

    @property
    def map_key(self) -> str:
        return f"mapfiles/{self.table}.map"

    def map_document_key(self, suffix: str) -> str:
        """Key of what is published beside the mapfile: `.tilejson` and `.wmts`."""
        return f"mapfiles/{self.table}{suffix}"

    def overview_mosaic_key(self, version: str) -> str:
        """A key of its own for each version: the map server has parts of the one before in memory."""
        return f"derived/{self.name}/overview_mosaic-{version}.tif"

    @property
    def map_name(self) -> str:
        return self.name.replace("_", "").upper()

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").title()

    @property
    def partition(self) -> str:
        """Key in the partition set collections/<shard>."""
        return f"{self.survey}/{self.type}"

    @property
    def may_lack_roll(self) -> bool:
        """AMS and USGS numbered frames without rolls; the agency is in AGENCY_YYYY, or a mission's first segment."""
        return not {self.shard, self.survey.partition("_")[0]}.isdisjoint(NO_ROLL_AGENCIES)

    @property
    def agency(self) -> str:
        """Who flew it: USDA of Travis/USDA_1958 and of USDA/DLK, StratMap of StratMap/..."""
        return self.survey.partition("_")[0] if _AGENCY_YEAR.fullmatch(self.survey) else self.shard

    @property
    def year(self) -> int | None:
        match = _YEAR.search(self.survey)
        return int(match[1]) if match else None

    def folder(self, film_type: FilmType) -> str:
        return f"{film_type}/{self.shard}/{self.survey}/{self.type}"

    def tile_index_key(self, film_type: FilmType, suffix: str) -> str:
        """Key of one file of the published index; `suffix` is `.shp` and its like, or `_idx.zip`."""
        return f"{self.folder(film_type)}/cog/tile_index/{self.name}{suffix}"

    @classmethod
    def from_partition(cls, shard: str, partition: str) -> "Collection":
        survey, type_ = partition.split("/")
        return cls(shard, survey, cast(FrameType, type_))

    @classmethod
    def from_name(cls, name: str) -> "Collection | None":
        """The collection of a name such as Travis_USDA_1958_frames; None when it is the name of none."""
        shard, _, rest = name.partition("_")
        survey, _, type_ = rest.rpartition("_")
        return cls(shard, survey, type_) if shard and _SECOND.fullmatch(survey) and type_ in TYPES else None


@dataclass(frozen=True)
class Attributes:
    """What the file name says of a frame, in the legacy wording; `acquired` is None where the name holds no full date."""

    date: str
    roll: str
    frame_num: str
    acquired: datetime.date | None


@dataclass(frozen=True, order=True)
class Frame:
    """One photograph, index sheet or mosaic of a collection; `stem` is its file name without the suffix."""

    collection: Collection
    film_type: FilmType
    stem: str

    @property
    def id(self) -> str:
        """Identity in the database: bw/Travis/USDA_1958/frames/02-08-60_6-107."""
        return f"{self.folder}/{self.stem}"

    @property
    def folder(self) -> str:
        return self.collection.folder(self.film_type)

    @property
    def partition(self) -> str:
        """Key in the partition set frames/<shard>; the collection comes first so that `USDA_1958/frames/*` means all of it."""
        return f"{self.collection.partition}/{self.film_type}/{self.stem}"

    @property
    def deflate_key(self) -> str:
        return f"{self.folder}/georef/deflate/{self.stem}.tif"

    @property
    def overviews_key(self) -> str:
        return f"{self.deflate_key}.ovr"

    @property
    def cog_key(self) -> str:
        return f"{self.folder}/cog/{self.stem}.tif"

    @property
    def served_folder(self) -> str:
        """Where the COGs of a replaced frame lie that the map reads: the public key cannot change under a warm server."""
        return f"derived/{self.collection.name}/served/{self.film_type}/{self.stem}/"

    @property
    def thumbnail_key(self) -> str:
        return f"derived/{self.collection.name}/thumbnails/{self.film_type}/{self.stem}.webp"

    @property
    def scan_stem(self) -> str | None:
        """File name, without its suffix, of the raw scan; None for a mosaic, which has none."""
        if self.collection.type == "mosaic":
            return None
        if self.collection.type == "index":
            return _match(self)["scan"]
        return self.stem

    @property
    def scan_prefix(self) -> str | None:
        return f"{self.folder}/scanned/{self.scan_stem}." if self.scan_stem else None

    def product_key(self, step: Step) -> str:
        return {"deflate": self.deflate_key, "overviews": self.overviews_key, "cog": self.cog_key}[step]

    @property
    def attributes(self) -> Attributes:
        found = _match(self).groupdict()
        if self.collection.type == "mosaic":
            return Attributes("MULTIPLE", "MULTIPLE", found["frame_num"], None)
        if self.collection.type == "index":
            return Attributes(found["date"], found["roll"], found["frame_num"], None)
        acquired = _calendar_date(found["date"], self.collection.year)
        return Attributes(found["date"], found.get("roll") or "N/A", found["frame_num"], acquired)

    @classmethod
    def from_id(cls, id_: str) -> "Frame":
        film_type, shard, survey, type_, stem = id_.split("/")
        return cls(Collection(shard, survey, cast(FrameType, type_)), cast(FilmType, film_type), stem)

    @classmethod
    def from_partition(cls, shard: str, partition: str) -> "Frame":
        survey, type_, film_type, stem = partition.split("/")
        return cls(Collection(shard, survey, cast(FrameType, type_)), cast(FilmType, film_type), stem)


def parse_georef_key(key: str, shards: Shards) -> Frame:
    """Read the key of a dropped tif, `band/first/survey/type/georef/file.tif`.

    Raises NameRejected with one sentence that says what the name should look like.
    """
    parts = key.split("/")
    if parts[0] == "rgb":
        raise InvalidNameError(f"{key}: three-band photographs live under nc/, so move the file to nc/{'/'.join(parts[1:])}.")
    if parts[0] not in FILM_TYPES:
        raise InvalidNameError(
            f"{key}: the first folder must be bw (black and white) or nc (natural colour); move the file there."
        )
    if len(parts) != 6 or parts[4] != "georef":
        raise InvalidNameError(
            f"{key}: a georeferenced tif lies at <band>/<County>/<AGENCY_YYYY>/<type>/georef/<file>.tif, "
            "for example bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif; move the file to such a folder."
        )
    film_type, shard, survey, type_, _, file = parts
    if shard not in shards:
        raise InvalidNameError(f"{key}: {_unknown_shard(shard, shards)}")
    if type_ not in TYPES:
        raise InvalidNameError(f"{key}: the folder after {survey} must be frames, index or mosaic, not {type_!r}; rename it.")
    collection = Collection(shard, survey, type_)
    _check_collection(key, collection, shards[shard])
    frame = Frame(collection, cast(FilmType, film_type), PurePosixPath(file).stem)
    _check_file(key, frame)
    return frame


def is_tif(key: str) -> bool:
    return key.lower().endswith(TIF_SUFFIXES)


def frame_stem(key: str) -> str | None:
    """Path, without suffix, of the tif that this key is or is a sidecar of; None for any other file.

    Sidecars are the world file, the .prj and the .aux.xml, which GDAL writes as x.tif.aux.xml and ArcGIS as x.aux.xml too.
    """
    lower = key.lower()
    for suffix in (*TIF_SUFFIXES, ".aux.xml", ".tifw", ".tiffw", ".tfw", ".wld", ".prj"):
        if lower.endswith(suffix):
            stem = key[: -len(suffix)]
            return stem[: -len(PurePosixPath(stem).suffix)] if suffix == ".aux.xml" and is_tif(stem) else stem
    return None


def parse_collection_path(path: str, shards: Shards) -> tuple[Collection, FilmType]:
    """Read `bw/Travis/USDA_1958/frames`, as an operator types it. Raises NameRejected."""
    parts = path.strip("/").split("/")
    if len(parts) != 4 or parts[0] not in FILM_TYPES or parts[3] not in TYPES:
        raise InvalidNameError(f"{path}: write the collection as band/County/AGENCY_YYYY/type, like bw/Travis/USDA_1958/frames.")
    if parts[1] not in shards:
        raise InvalidNameError(f"{path}: {_unknown_shard(parts[1], shards)}")
    collection = Collection(parts[1], parts[2], parts[3])
    _check_collection(path, collection, shards[parts[1]])
    return collection, parts[0]


def _unknown_shard(shard: str, shards: Shards) -> str:
    by_lower = {name.lower(): name for name in shards}
    close = [by_lower[name] for name in difflib.get_close_matches(shard.lower(), by_lower, n=1, cutoff=0.7)]
    hint = f"did you mean {close[0]}? Rename the folder" if close else "correct the folder"
    return f"{shard!r} is no county or agency of this archive; {hint}, or ask the operator to add it to the list of shards."


def _check_collection(key: str, collection: Collection, kind: ShardKind) -> None:
    survey = collection.survey
    if not _SECOND.fullmatch(survey):
        raise InvalidNameError(f"{key}: {survey!r} may hold only letters, digits and single underscores; rename the folder.")
    if kind == "county" and not _AGENCY_YEAR.fullmatch(survey):
        raise InvalidNameError(f"{key}: below a county the folder is AGENCY_YYYY, like USDA_1958, not {survey!r}; rename it.")
    if len(collection.name) > MAX_NAME:
        raise InvalidNameError(
            f"{key}: the collection's name {collection.name} is longer than {MAX_NAME} letters; shorten the folder's name."
        )


def _pattern(frame: Frame) -> tuple[str, list[re.Pattern[str]]]:
    """The expected shape, for messages, and the patterns that the stem may match."""
    collection = frame.collection
    if collection.type == "index":
        return "index", [_INDEX]
    if collection.type == "mosaic":
        return "mosaic", [_MOSAIC]
    if collection.shard == STRATMAP:
        return "stratmap", [_STRATMAP]
    if collection.may_lack_roll:
        return "no_roll", [_FRAME_NO_ROLL, _FRAME]
    return "frames", [_FRAME]


def _match(frame: Frame) -> re.Match[str]:
    """Raises NameRejected when the stem does not follow the rule of its type."""
    shape, patterns = _pattern(frame)
    for pattern in patterns:
        if match := pattern.fullmatch(frame.stem):
            return match
    what = {"index": "an index sheet", "mosaic": "a mosaic"}.get(shape, f"a frame of {frame.collection.survey}")
    raise InvalidNameError(f"{frame.stem!r} is no name of {what}, which reads {_SHAPES[shape]}; rename the file.")


def _check_file(key: str, frame: Frame) -> None:
    try:
        _ = frame.attributes
    except InvalidNameError as error:
        raise InvalidNameError(f"{key}: {error}") from None


def _calendar_date(text: str, year: int | None) -> datetime.date:
    """MM-DD-YY in the century nearest the collection's year; missions without a year are 19xx."""
    month, day, short = (int(part) for part in text.split("-"))
    if year is None:
        full = 1900 + short
    else:
        full = min((century + short for century in (1800, 1900, 2000)), key=lambda candidate: abs(candidate - year))
    try:
        return datetime.date(full, month, day)
    except ValueError:
        raise InvalidNameError(f"{text} is not a date as MM-DD-YY; correct the file's name.") from None
