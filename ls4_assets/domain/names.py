"""Collections and frames as frozen dataclasses, and the object keys, partition keys, tables and attributes derived from them.

These names are a contract with the staff who drop scans and with published maps (docs/reference/names.md). Parsing a dropped
file's key is in `key_parser`, keys of each frame's products are in `products`, keys of exports in `exports` and `export_keys`,
and public URLs in `links`. What differs from archive to archive is in the archive file (`archive_file`). Nothing here accesses
storage.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.products import COG, ProductName, product_of
from ls4_assets.errors import InvalidNameError

FrameType = Literal["frames", "index", "mosaic"]
ShardKind = Literal["county", "agency", "program"]
Shards = Mapping[str, ShardKind]

FRAME_TYPES: tuple[FrameType, ...] = get_args(FrameType)

SHAPEFILE_SUFFIXES = (".shp", ".shx", ".dbf", ".prj", ".cpg")
# PostgreSQL truncates identifiers to 63 bytes, and index and constraint names add a suffix to the table's name.
MAX_NAME_LENGTH = 50

SURVEY_PATTERN = re.compile(r"[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*")
AGENCY_YEAR_PATTERN = re.compile(r"[A-Za-z0-9]+_(?:18|19|20)[0-9]{2}")

# [0-9], because the usual class also matches the digits of all other scripts.
_DATE = r"(?P<date>[0-9]{2}-[0-9]{2}-[0-9]{2})"
_WORD = r"[A-Za-z0-9]+"
_FRAME = re.compile(rf"{_DATE}_(?P<roll>{_WORD})-(?P<frame_num>{_WORD})")
_FRAME_NO_ROLL = re.compile(rf"{_DATE}_(?P<frame_num>{_WORD})")
_INDEX = re.compile(
    rf"(?P<scan>(?P<roll>{_WORD})_(?P<date>[0-9]{{4}})_(?P<frame_num>{_WORD}?)(?:_[0-9]+dpi)?)(?:_(?P<tile>{_WORD}))?"
)
_MOSAIC = re.compile(r"mosaic(?P<frame_num>[0-9]{2,})")
_PROGRAM_FRAME = re.compile(rf"(?P<roll>{_WORD})_(?P<frame_num>{_WORD})_{_DATE}(?:_(?P<epsg>[0-9]{{4,6}}))?")
# No name matches two of them, so the attributes of a frame do not depend on the archive's rules.
FRAME_PATTERNS = (_FRAME, _FRAME_NO_ROLL, _PROGRAM_FRAME)
_PATTERNS: Mapping[FrameType, Sequence[re.Pattern[str]]] = {
    "frames": FRAME_PATTERNS,
    "index": (_INDEX,),
    "mosaic": (_MOSAIC,),
}
_YEAR = re.compile(r"(?:^|_)((?:18|19|20)[0-9]{2})(?:_|$)")

# The file name that each rule expects, for messages.
_EXPECTED_NAMES = {
    "frames": "MM-DD-YY_<roll>-<frame>.tif, for example 02-08-60_6-107.tif",
    "no_roll": "MM-DD-YY_<frame>.tif, for example 03-10-54_1234.tif",
    "program": "<roll>_<frame>_<MM-DD-YY>.tif, for example 3_107_02-08-96.tif",
    "index": "<AGENCY>_<YYYY>_<SHEET>.tif, for example USDA_1958_1.tif",
    "mosaic": "mosaic<NN>.tif, for example mosaic01.tif",
}


@dataclass(frozen=True)
class Naming:
    """The names that one archive accepts, from its archive file.

    shards: the path segments after the film type. agencies_without_rolls: agencies that numbered their frames without rolls, so
    file names may omit the roll. example: the path of a collection, for messages.
    """

    shards: Shards
    agencies_without_rolls: frozenset[str]
    example: str

    @property
    def example_collection(self) -> str:
        """The name of the collection at `example`."""
        return "_".join(self.example.split("/")[1:])


@dataclass(frozen=True, order=True)
class Collection:
    """All frames of one type from one survey, of all film types.

    `shard` is the path segment after the film type: a county, an agency or a program. `survey` is the next segment: AGENCY_YYYY
    below a county, else a mission or a name that the program chose.
    """

    shard: str
    survey: str
    type: FrameType

    @property
    def name(self) -> str:
        """Name of the tile index and prefix of the map layers, for example Adams_USDA_1958_frames."""
        return f"{self.shard}_{self.survey}_{self.type}"

    @property
    def table(self) -> str:
        """Name of the tile index's table in PostGIS."""
        return self.name.lower()

    @property
    def map_key(self) -> str:
        return f"mapfiles/{self.table}.map"

    def map_document_key(self, suffix: str) -> str:
        """Key of a document published next to the mapfile; `suffix` is `.tilejson` or `.wmts`."""
        return f"mapfiles/{self.table}{suffix}"

    def overview_mosaic_key(self, version: str) -> str:
        """Key of one version. Each version has its own key because the map server caches parts of the previous one."""
        return f"derived/{self.name}/overview_mosaic-{version}.tif"

    @property
    def map_name(self) -> str:
        """NAME of the MapServer map, for example ADAMSUSDA1958FRAMES."""
        return self.name.replace("_", "").upper()

    @property
    def title(self) -> str:
        """The WMS title, a contract with published maps: Adams Usda 1958 Frames. Everything else shows the label."""
        return self.name.replace("_", " ").title()

    @property
    def label(self) -> str:
        """The title for people: Adams USDA 1958 frames."""
        return self.name.replace("_", " ")

    @property
    def partition(self) -> str:
        """Partition key in the partition set collections/<shard>."""
        return f"{self.survey}/{self.type}"

    @property
    def agency(self) -> str:
        """The agency that flew the survey: USDA for Adams/USDA_1958 and USDA/DLK; else the shard."""
        return self.survey.partition("_")[0] if AGENCY_YEAR_PATTERN.fullmatch(self.survey) else self.shard

    @property
    def year(self) -> int | None:
        """Year in the survey's name; None if it contains none."""
        match = _YEAR.search(self.survey)
        return int(match[1]) if match else None

    @property
    def command_path(self) -> str:
        """The path that names the collection in a command, for example bw/Adams/USDA_1958/frames. Any film type does."""
        return self.folder(next(iter(FILM_TYPES)))

    def folder(self, film_type: FilmType) -> str:
        """Key prefix of one film type, without a trailing slash."""
        return f"{film_type}/{self.shard}/{self.survey}/{self.type}"

    def cog_folder(self, film_type: FilmType) -> str:
        """Key prefix of the public COGs of one film type."""
        return COG.key.removesuffix("{stem}.tif").format(folder=self.folder(film_type))

    def tile_index_key(self, film_type: FilmType, suffix: str) -> str:
        """Key of one file of the published tile index; `suffix` is one of SHAPEFILE_SUFFIXES or `_idx.zip`."""
        return f"{self.folder(film_type)}/cog/tile_index/{self.name}{suffix}"

    @classmethod
    def from_partition(cls, shard: str, partition: str) -> "Collection":
        survey, type_ = partition.split("/")
        return cls(shard, survey, cast(FrameType, type_))

    @classmethod
    def from_name(cls, name: str) -> "Collection | None":
        """Collection with a name such as Adams_USDA_1958_frames; None if it is not a valid collection name."""
        shard, _, rest = name.partition("_")
        survey, _, type_ = rest.rpartition("_")
        return cls(shard, survey, type_) if shard and SURVEY_PATTERN.fullmatch(survey) and type_ in FRAME_TYPES else None


@dataclass(frozen=True)
class Attributes:
    """Attributes from a frame's file name, in the legacy wording; `acquired` is None if the name has no full date."""

    date: str
    roll: str
    frame_num: str
    acquired: datetime.date | None


@dataclass(frozen=True, order=True)
class Frame:
    """One photograph, index sheet or mosaic sheet of a collection; `stem` is its file name without the suffix."""

    collection: Collection
    film_type: FilmType
    stem: str

    @property
    def id(self) -> str:
        """Primary key in the database, for example bw/Adams/USDA_1958/frames/02-08-60_6-107."""
        return f"{self.folder}/{self.stem}"

    @property
    def folder(self) -> str:
        return self.collection.folder(self.film_type)

    @property
    def partition(self) -> str:
        """Partition key in the set frames/<shard>; it starts with the collection so that `USDA_1958/frames/*` selects it."""
        return f"{self.collection.partition}/{self.film_type}/{self.stem}"

    @property
    def deflate_key(self) -> str:
        return self.product_key("deflate")

    @property
    def overviews_key(self) -> str:
        return self.product_key("overviews")

    @property
    def cog_key(self) -> str:
        return self.product_key("cog")

    @property
    def served_folder(self) -> str:
        """Key prefix of the COGs that the map reads after a frame is replaced.

        Overwriting the public key would break map servers that have it open.
        """
        return self._fill(str(COG.versions_folder))

    @property
    def thumbnail_key(self) -> str:
        return self.product_key("thumbnail")

    @property
    def scan_stem(self) -> str | None:
        """File name of the raw scan without its suffix; None for a mosaic sheet, which has no scan."""
        if self.collection.type == "mosaic":
            return None
        if self.collection.type == "index":
            return _match_stem(self)["scan"]
        return self.stem

    @property
    def scan_prefix(self) -> str | None:
        """Key of the raw scan up to and including the dot before its suffix; None for a mosaic sheet."""
        return f"{self.folder}/scanned/{self.scan_stem}." if self.scan_stem else None

    def product_key(self, product: ProductName) -> str:
        return self._fill(product_of(product).key)

    def _fill(self, template: str) -> str:
        return template.format(folder=self.folder, collection=self.collection.name, film_type=self.film_type, stem=self.stem)

    @property
    def attributes(self) -> Attributes:
        """Attributes parsed from the file name. Raises InvalidNameError."""
        groups = _match_stem(self).groupdict()
        if self.collection.type == "mosaic":
            return Attributes("MULTIPLE", "MULTIPLE", groups["frame_num"], None)
        if self.collection.type == "index":
            return Attributes(groups["date"], groups["roll"], groups["frame_num"], None)
        acquired = _calendar_date(groups["date"], self.collection.year)
        return Attributes(groups["date"], groups.get("roll") or "N/A", groups["frame_num"], acquired)

    @classmethod
    def from_id(cls, id_: str) -> "Frame":
        film_type, shard, survey, type_, stem = id_.split("/")
        return cls(Collection(shard, survey, cast(FrameType, type_)), film_type, stem)

    @classmethod
    def from_partition(cls, shard: str, partition: str) -> "Frame":
        survey, type_, film_type, stem = partition.split("/")
        return cls(Collection(shard, survey, cast(FrameType, type_)), film_type, stem)


def check_file_name(frame: Frame, naming: Naming) -> None:
    """Raise InvalidNameError unless the archive accepts the frame's file name and the date in it is valid."""
    rule, patterns = _name_rule(frame, naming)
    if not any(pattern.fullmatch(frame.stem) for pattern in patterns):
        raise _invalid_name(frame, rule)
    _ = frame.attributes


def _name_rule(frame: Frame, naming: Naming) -> tuple[str, Sequence[re.Pattern[str]]]:
    """Key into `_EXPECTED_NAMES`, and the patterns that the stem may match."""
    collection = frame.collection
    if collection.type != "frames":
        return collection.type, _PATTERNS[collection.type]
    if naming.shards.get(collection.shard) == "program":
        return "program", [_PROGRAM_FRAME]
    if not {collection.shard, collection.survey.partition("_")[0]}.isdisjoint(naming.agencies_without_rolls):
        return "no_roll", [_FRAME_NO_ROLL, _FRAME]
    return "frames", [_FRAME]


def _match_stem(frame: Frame) -> re.Match[str]:
    """Match of the stem with a pattern of its type. Raises InvalidNameError."""
    for pattern in _PATTERNS[frame.collection.type]:
        if match := pattern.fullmatch(frame.stem):
            return match
    raise _invalid_name(frame, frame.collection.type)


def _invalid_name(frame: Frame, rule: str) -> InvalidNameError:
    subject = {"index": "an index sheet", "mosaic": "a mosaic"}.get(rule, f"a frame of {frame.collection.survey}")
    return InvalidNameError(
        f"{frame.stem!r} is not a valid name for {subject}, which must be {_EXPECTED_NAMES[rule]}; rename the file."
    )


def _calendar_date(text: str, year: int | None) -> datetime.date:
    """Date of MM-DD-YY in the century nearest to the collection's year, or in 19xx if `year` is None. Raises InvalidNameError."""
    month, day, short_year = (int(part) for part in text.split("-"))
    if year is None:
        full_year = 1900 + short_year
    else:
        full_year = min((century + short_year for century in (1800, 1900, 2000)), key=lambda candidate: abs(candidate - year))
    try:
        return datetime.date(full_year, month, day)
    except ValueError:
        raise InvalidNameError(f"{text} is not a valid MM-DD-YY date; correct the file's name.") from None
