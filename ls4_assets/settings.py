"""The one validated configuration: what an operator can set, read from the environment or from a file.

Every field can be given as `LS4_<FIELD>` in the environment or in the TOML file named by `LS4_CONFIG`; the environment wins.
Nested fields are written with two underscores (`LS4_PROFILES__NC__JPEG_QUALITY=90`). docs/configuration.md lists them.
"""

import difflib
import os
import re
import tomllib
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ls4_assets.domain.contact import Contact
from ls4_assets.domain.names import FilmType, ShardKind, Shards
from ls4_assets.domain.profiles import BW, NC, PROFILES, FrameProfile
from ls4_assets.domain.regions import RegionBounds, shipped
from ls4_assets.errors import ConfigurationError

# Read by others than this module: where the file is, where a laptop's state is, dagster.yaml's database, test data; and what
# `ls4 db init` is told.
OTHER_VARIABLES = {"LS4_CONFIG", "LS4_STATE", "LS4_DAGSTER_DATABASE_URL", "LS4_SHARED"} | {
    *("LS4_ADMIN_DATABASE_URL", "LS4_PASSWORD_DAGSTER", "LS4_PASSWORD_LS4", "LS4_PASSWORD_MAPSERVER"),
}
# What the file of shards holds besides the lists of shards.
_GROUND = ("outlines", "extent", "extents")


class Profiles(BaseModel, frozen=True):
    """How frames of each band are written."""

    bw: FrameProfile = BW
    nc: FrameProfile = NC

    @field_validator("bw", "nc", mode="before")
    @classmethod
    def _over_the_default(cls, given: object, field: ValidationInfo) -> object:
        """An operator names only the options that shall be otherwise; the band is the field's own."""
        default = PROFILES[cast(FilmType, field.field_name)].model_dump()
        return {**default, **given, "film_type": field.field_name} if isinstance(given, dict) else given

    def __getitem__(self, film_type: FilmType) -> FrameProfile:
        return {"bw": self.bw, "nc": self.nc}[film_type]


AS_SHIPPED = Profiles()


class Settings(BaseSettings):
    """All that an operator can set. Sizes are in bytes or pixels, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="LS4_", env_nested_delimiter="__", frozen=True, extra="forbid")

    storage: str = Field(description="the archive: a folder (/srv/archive) or a bucket (s3://name)")
    s3_endpoint_url: str | None = Field(None, description="an S3 server other than AWS")
    s3_region: str | None = Field(None, description="region of the bucket; None: as the AWS environment says")
    legacy_bucket: str = Field("ls4", description="bucket named in `location` (/vsis3/<bucket>/<key>) when storage is a folder")
    database_url: SecretStr = Field(description="postgresql+psycopg2://ls4:...@host/ls4")
    public_url: str = Field(description="base of the download links in the index, without a trailing slash")
    map_url: str = Field(description="address of the map front, without a trailing slash")
    map_internal_url: str = Field("", description="address by which runs ask the map front for a trial; empty: map_url")
    dagster_url: str = Field("", description="address of the Dagster UI, for the links that commands print")
    staff_url: str = Field("", description="address of the staff page of rejected files, for the links in messages")
    notify_topic: str = Field("", description="ARN of the SNS topic that gets the messages; none: log and file only")
    notify_endpoint_url: str | None = Field(None, description="an SNS server other than AWS")
    notify_file: Path | None = Field(None, description="file to which each message is written too")
    notify_group_wait_seconds: float = Field(60.0, ge=0, description="a trouble is told when nothing came to it for so long")
    notify_repeat_interval_seconds: float = Field(3600.0, ge=0, description="and not again before so long")
    stall_alert_seconds: float = Field(
        7200.0, gt=0, description="frames that wait for so long, while none is finished, are told of"
    )
    log_file: Path | None = Field(None, description="file that gets the log lines of all processes, beside their stderr")
    postgres_service: str = Field("ls4", description="libpq service through which MapServer reads the index")
    mapfile_uid: int = Field(0, ge=0, description="owner of a mapfile on S3, as an s3fs mount shows it")
    mapfile_gid: int = Field(0, ge=0, description="its group")
    contact: Contact | None = Field(None, description="who answers for the WMS: all of the fields or none")

    profiles: Profiles = Profiles()
    max_pixels: int = Field(1_500_000_000, gt=0, description="a frame with more pixels is rejected")
    max_source_bytes: int = Field(12_000_000_000, gt=0, description="a georef tif with more bytes is rejected")
    shards_file: Path | None = Field(None, description="TOML file with the archive's own shards; None: Texas")

    batch_size: int = Field(100, ge=1, le=1000, description="most frames in one run")
    batches_per_tick: int = Field(10, ge=1, le=20, description="most runs that one sensor tick requests")
    open_batches: int = Field(20, ge=1, description="most runs that wait or work at the same time; the rest stays queued")
    open_batches_per_shard: int = Field(10, ge=1, description="of these, most of one shard")
    open_batches_per_collection: int = Field(6, ge=1, description="of these, most of one collection")
    max_attempts: int = Field(5, ge=1, description="runs that may die under a frame before it is called failed")
    settle_seconds: float = Field(3.0, ge=0, description="a file that changed less than this ago may still be being copied")
    events_queue_url: str = Field("", description="SQS queue of the bucket's events; empty: the bucket is listed all the time")
    events_per_tick: int = Field(1000, ge=1, le=10_000, description="most messages of that queue that one look takes")
    full_scan_hour: int = Field(
        8, ge=0, le=23, description="UTC hour at which, with events, the whole bucket is listed once a day"
    )
    sensor_seconds: int = Field(5, ge=1, description="seconds between two looks at the bucket")
    scan_seconds: float = Field(20.0, gt=0, le=40, description="a look that takes longer goes on at the next one")
    scan_keys: int = Field(50_000, ge=1, description="most keys that one look compares; the next one goes on behind them")
    deletion_guard_share: float = Field(0.2, ge=0, le=1, description="more of a collection does not go without a question")
    deletion_guard_frames: int = Field(20, ge=0, description="so many frames of a collection always go without one")
    fargate: bool = Field(False, description="runs are Fargate tasks: their CPU, memory and disk follow from their frames")
    worker_processes: int = Field(0, ge=0, description="frames processed at once in a run; 0: one a core")
    worker_memory_mb: int = Field(1500, ge=1000, description="megabytes a worker may take; fewer work where memory is less")
    frame_timeout_seconds: float = Field(3600.0, gt=0, description="a frame that takes longer is stopped and called failed")
    reader_grace_seconds: float = Field(
        10.0, ge=0, description="a COG that was replaced or removed is left to its readers this long"
    )
    work_dir: Path | None = Field(None, description="scratch space of the workers; None: the system's temporary folder")

    @field_validator("public_url", "map_url", "map_internal_url", "dagster_url", "staff_url")
    @classmethod
    def _no_trailing_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("notify_topic")
    @classmethod
    def _is_a_topic(cls, value: str) -> str:
        if value and not re.fullmatch(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]+", value):
            raise ValueError("this is no ARN of an SNS topic, like arn:aws:sns:us-east-1:123456789012:ls4")
        return value

    @model_validator(mode="after")
    def _events_are_of_a_bucket(self) -> "Settings":
        if self.events_queue_url and not self.storage.startswith("s3://"):
            raise ValueError("LS4_EVENTS_QUEUE_URL tells of a bucket and LS4_STORAGE is a folder")
        return self

    @cached_property
    def shards(self) -> Shards:
        return read_shards(self.shards_file)

    @cached_property
    def ground(self) -> RegionBounds:
        return read_region_bounds(self.shards_file)

    @property
    def workers(self) -> int:
        return self.worker_processes or len(os.sched_getaffinity(0))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = TomlConfigSettingsSource(settings_cls, toml_file=os.environ.get("LS4_CONFIG"))
        return init_settings, env_settings, file


def load_settings(**overrides: object) -> Settings:
    """Read the configuration. Raises ConfigurationError that names each wrong, missing or misspelt setting."""
    file = os.environ.get("LS4_CONFIG")
    if file and not Path(file).is_file():
        raise ConfigurationError(f"LS4_CONFIG names {file}, which is no file; correct the path.")
    _reject_misspelt()
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # the fields come from environment and file
    except ValidationError as error:
        wrong = "; ".join(f"LS4_{'__'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"{wrong}: correct the environment or the file named by LS4_CONFIG.") from None


def _reject_misspelt() -> None:
    """A setting that nobody reads would be believed to be in force."""
    fields = {f"LS4_{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith("LS4_") and name.upper().partition("__")[0] not in fields | OTHER_VARIABLES:
            close = difflib.get_close_matches(name.upper(), fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else "; see docs/configuration.md."
            raise ConfigurationError(f"{name} is no setting of ls4{hint} Correct or unset it.")


def read_shards(path: Path | None) -> Shards:
    """Read the list of shards: TOML lists `county`, `agency` and `programme`. Raises ConfigurationError."""
    lists = _shards_file(path)
    kinds = get_args(ShardKind)
    if unknown := set(lists) - {*kinds, *_GROUND}:
        raise ConfigurationError(f"{path}: {', '.join(unknown)} is no kind of shard; use {', '.join(kinds)}.")
    shards = {name: kind for kind in kinds for name in lists.get(kind, [])}
    if bad := [name for name in shards if not (name.isascii() and name.isalnum())]:
        raise ConfigurationError(f"{path}: {', '.join(bad)} may hold only letters and digits; correct the list of shards.")
    return shards


def read_region_bounds(path: Path | None) -> RegionBounds:
    """Read, from the same file, where photographs may lie: `outlines`, `extent` and the table `extents`. Raises
    ConfigurationError."""
    given = _shards_file(path)
    ground = RegionBounds(given.get("outlines"), given.get("extent"), given.get("extents", {}))
    if ground.outlines not in (None, *shipped()):
        raise ConfigurationError(
            f"{path}: there are no outlines {ground.outlines}; use {', '.join(shipped())}, or leave them out."
        )
    for extent in (*ground.extents.values(), *([ground.extent] if ground.extent else [])):
        if len(extent) != 4 or not (extent[0] < extent[2] and extent[1] < extent[3]):
            raise ConfigurationError(f"{path}: {list(extent)} is no extent; write degrees as [west, south, east, north].")
    return ground


def _shards_file(path: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads((path or files("ls4_assets.domain.regions") / "shards.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"The list of shards {path} cannot be read ({error}); correct LS4_SHARDS_FILE.") from None
