"""All settings of ls4, validated: everything that an operator can configure.

Set a field as `LS4_<FIELD>` in the environment, or in the TOML file named by `LS4_CONFIG`; the environment takes precedence.
Nested fields are written with two underscores (`LS4_PROFILES__NC__JPEG_QUALITY=90`). docs/reference/settings.md lists them.
Constants that no operator changes belong in the module that uses them.
"""

import difflib
import os
import re
import tomllib
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ls4_assets.domain.contact import Contact
from ls4_assets.domain.names import FilmType, ShardKind, Shards
from ls4_assets.domain.profiles import BW, NC, PROFILES, FrameProfile
from ls4_assets.domain.regions import RegionBounds, available_outlines
from ls4_assets.errors import ConfigurationError

# Variables that are not fields of Settings: the settings file, the state folder of the demo, the database of dagster.yaml, test
# data; and the input of `ls4 db init`.
OTHER_VARIABLES = {"LS4_CONFIG", "LS4_STATE", "LS4_DAGSTER_DATABASE_URL", "LS4_SHARED"} | {
    *("LS4_ADMIN_DATABASE_URL", "LS4_PASSWORD_DAGSTER", "LS4_PASSWORD_LS4", "LS4_PASSWORD_MAPSERVER"),
}
# Names of the map publishers (ls4_assets/publishing/maps.py).
MapPublisherName = Literal["mapserver", "mosaicjson"]
MosaicJsonAddresses = Literal["public", "storage"]
DEFAULT_MAP_PUBLISHERS: tuple[MapPublisherName, ...] = ("mapserver",)
# Keys of the shards file that are not lists of shards.
_REGION_KEYS = ("outlines", "extent", "extents")


class Profiles(BaseModel, frozen=True):
    """Frame profile of each film type."""

    bw: FrameProfile = BW
    nc: FrameProfile = NC

    @field_validator("bw", "nc", mode="before")
    @classmethod
    def _merge_with_default(cls, given: object, field: ValidationInfo) -> object:
        """Add the defaults to the options that the operator set, and the film type, which is the name of the field."""
        default = PROFILES[cast(FilmType, field.field_name)].model_dump()
        return {**default, **given, "film_type": field.field_name} if isinstance(given, dict) else given

    def __getitem__(self, film_type: FilmType) -> FrameProfile:
        return {"bw": self.bw, "nc": self.nc}[film_type]


DEFAULT_PROFILES = Profiles()


class Settings(BaseSettings):
    """The settings. Sizes are in bytes or pixels, times in seconds."""

    model_config = SettingsConfigDict(env_prefix="LS4_", env_nested_delimiter="__", frozen=True, extra="forbid")

    storage: str = Field(description="the archive: a folder (/srv/archive) or a bucket (s3://name)")
    s3_endpoint_url: str | None = Field(None, description="URL of an S3 server other than AWS")
    s3_region: str | None = Field(None, description="AWS region of the bucket; None: the region of the AWS environment")
    legacy_bucket: str = Field("ls4", description="bucket named in `location` (/vsis3/<bucket>/<key>) when storage is a folder")
    database_url: SecretStr = Field(description="postgresql+psycopg2://ls4:...@host/ls4")
    public_url: str = Field(description="base URL of the download links in the tile index, without a trailing slash")
    map_url: str = Field(description="public URL of the web front end, without a trailing slash")
    map_internal_url: str = Field("", description="URL of the web front end for smoke tests by runs; empty: map_url")
    dagster_url: str = Field("", description="URL of the Dagster UI, for links in messages and command output")
    staff_url: str = Field("", description="URL of the quarantine page of rejected files, for links in notifications")
    notify_topic: str = Field("", description="ARN of the SNS topic for notifications; empty: only log and file")
    notify_endpoint_url: str | None = Field(None, description="URL of an SNS server other than AWS")
    notify_file: Path | None = Field(None, description="file to which each notification is also appended")
    notify_group_wait_seconds: float = Field(
        60.0, ge=0, description="seconds without a new file after which an incident is reported"
    )
    notify_repeat_interval_seconds: float = Field(
        3600.0, ge=0, description="minimum seconds between two notifications of the same incident"
    )
    stall_alert_seconds: float = Field(
        7200.0, gt=0, description="seconds that frames wait, while none is finished, before that is reported"
    )
    log_file: Path | None = Field(None, description="file to which all processes also append their log lines, besides stderr")
    postgres_service: str = Field("ls4", description="libpq service by which MapServer connects to the database")
    map_publishers: Annotated[tuple[MapPublisherName, ...], NoDecode] = Field(
        DEFAULT_MAP_PUBLISHERS,
        min_length=1,
        description="map servers for which each collection is published, in this order: mapserver, mosaicjson",
    )
    mosaicjson_addresses: MosaicJsonAddresses = Field(
        "public", description="addresses of the COGs in MosaicJSON documents: their public URLs, or storage: GDAL paths"
    )
    mapfile_uid: int = Field(0, ge=0, description="numeric user ID that an s3fs mount shows as owner of a mapfile")
    mapfile_gid: int = Field(0, ge=0, description="numeric group ID that an s3fs mount shows for a mapfile")
    contact: Contact | None = Field(None, description="contact in the WMS capabilities: all of its fields or none")

    profiles: Profiles = Profiles()
    max_pixels: int = Field(1_500_000_000, gt=0, description="maximum pixels of a frame; a larger one is rejected")
    max_source_bytes: int = Field(12_000_000_000, gt=0, description="maximum bytes of a georef tif; a larger one is rejected")
    shards_file: Path | None = Field(None, description="TOML file with the archive's own shards; None: Texas")

    batch_size: int = Field(100, ge=1, le=1000, description="maximum frames in one run")
    batches_per_tick: int = Field(10, ge=1, le=20, description="maximum runs that one sensor tick requests")
    open_batches: int = Field(20, ge=1, description="maximum runs that are queued or running at the same time")
    open_batches_per_shard: int = Field(10, ge=1, description="maximum of those runs for one shard")
    open_batches_per_collection: int = Field(6, ge=1, description="maximum of those runs for one collection")
    max_attempts: int = Field(5, ge=1, description="crashed runs after which a frame counts as failed")
    settle_seconds: float = Field(3.0, ge=0, description="seconds without a change before a file counts as completely copied")
    events_queue_url: str = Field("", description="URL of the SQS queue of bucket events; empty: the bucket is polled")
    events_per_tick: int = Field(1000, ge=1, le=10_000, description="maximum queue messages that one sensor tick receives")
    full_scan_hour: int = Field(8, ge=0, le=23, description="UTC hour of the daily full scan of a bucket with an event queue")
    sensor_seconds: int = Field(5, ge=1, description="seconds between two ticks of the ingest sensor")
    scan_seconds: float = Field(20.0, gt=0, le=40, description="maximum seconds of one scan; the next tick resumes it")
    scan_keys: int = Field(50_000, ge=1, description="maximum keys that one scan compares; the next tick resumes behind them")
    deletion_guard_share: float = Field(
        0.2, ge=0, le=1, description="share of a collection; deletions above it wait for confirmation"
    )
    deletion_guard_frames: int = Field(20, ge=0, description="number of frames that may be deleted without confirmation")
    fargate: bool = Field(False, description="runs are Fargate tasks whose CPU, memory and disk are sized by their frames")
    worker_processes: int = Field(0, ge=0, description="frames that a run processes at once; 0: one for each CPU core")
    worker_memory_mb: int = Field(
        1500, ge=1000, description="megabytes of memory reserved for a worker; less memory means fewer workers"
    )
    frame_timeout_seconds: float = Field(3600.0, gt=0, description="seconds after which a frame is stopped and counts as failed")
    reader_grace_seconds: float = Field(
        10.0, ge=0, description="seconds that a replaced or removed COG is kept for clients that still read it"
    )
    work_dir: Path | None = Field(None, description="scratch folder of the workers; None: the system's temporary folder")

    @field_validator("public_url", "map_url", "map_internal_url", "dagster_url", "staff_url")
    @classmethod
    def _strip_trailing_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("map_publishers", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        """Accept a list separated by commas, as in the environment."""
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("map_publishers")
    @classmethod
    def _check_no_duplicates(cls, value: tuple[MapPublisherName, ...]) -> tuple[MapPublisherName, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a map publisher is listed twice; list each once")
        return value

    @field_validator("notify_topic")
    @classmethod
    def _check_topic_arn(cls, value: str) -> str:
        if value and not re.fullmatch(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]+", value):
            raise ValueError("not the ARN of an SNS topic; use one like arn:aws:sns:us-east-1:123456789012:ls4")
        return value

    @model_validator(mode="after")
    def _check_queue_needs_bucket(self) -> "Settings":
        if self.events_queue_url and not self.storage.startswith("s3://"):
            raise ValueError("LS4_EVENTS_QUEUE_URL needs a bucket, but LS4_STORAGE is a folder")
        return self

    @cached_property
    def shards(self) -> Shards:
        """Shards of the archive with their kind. Raises ConfigurationError."""
        return read_shards(self.shards_file)

    @cached_property
    def region_bounds(self) -> RegionBounds:
        """Where photographs may be. Raises ConfigurationError."""
        return read_region_bounds(self.shards_file)

    @property
    def workers(self) -> int:
        """Frames that a run processes at once."""
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
    """Read the settings. Raises a ConfigurationError that names each wrong, missing or misspelled setting."""
    file = os.environ.get("LS4_CONFIG")
    if file and not Path(file).is_file():
        raise ConfigurationError(f"LS4_CONFIG names {file}, which is not a file; correct the path.")
    _reject_unknown_variables()
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # the fields come from environment and file
    except ValidationError as error:
        errors = "; ".join(f"LS4_{'__'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"{errors}; correct the environment or the file named by LS4_CONFIG.") from None


def _reject_unknown_variables() -> None:
    """Raise ConfigurationError for a misspelled variable, which would otherwise be ignored silently."""
    fields = {f"LS4_{name.upper()}" for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith("LS4_") and name.upper().partition("__")[0] not in fields | OTHER_VARIABLES:
            close = difflib.get_close_matches(name.upper(), fields, n=1)
            hint = f"; did you mean {close[0]}?" if close else "; see docs/reference/settings.md."
            raise ConfigurationError(f"{name} is not a setting of ls4{hint} Correct or unset it.")


def read_shards(path: Path | None) -> Shards:
    """Read the shards: TOML lists `county`, `agency` and `program`. Raises ConfigurationError."""
    lists = _read_shards_file(path)
    kinds = get_args(ShardKind)
    if unknown := set(lists) - {*kinds, *_REGION_KEYS}:
        raise ConfigurationError(f"{path}: {', '.join(unknown)} is not a kind of shard; use {', '.join(kinds)}.")
    shards = {name: kind for kind in kinds for name in lists.get(kind, [])}
    if invalid := [name for name in shards if not (name.isascii() and name.isalnum())]:
        raise ConfigurationError(
            f"{path}: the name of a shard may contain only letters and digits; correct {', '.join(invalid)}."
        )
    return shards


def read_region_bounds(path: Path | None) -> RegionBounds:
    """Read where photographs may be, from the same file: `outlines`, `extent` and the table `extents`, in degrees (EPSG:4326).

    Raises ConfigurationError.
    """
    content = _read_shards_file(path)
    bounds = RegionBounds(content.get("outlines"), content.get("extent"), content.get("extents", {}))
    if bounds.outlines not in (None, *available_outlines()):
        raise ConfigurationError(
            f"{path}: there are no outlines named {bounds.outlines}; use {', '.join(available_outlines())}, or omit `outlines`."
        )
    for extent in (*bounds.extents.values(), *([bounds.extent] if bounds.extent else [])):
        if len(extent) != 4 or not (extent[0] < extent[2] and extent[1] < extent[3]):
            raise ConfigurationError(f"{path}: {list(extent)} is not an extent; write degrees as [west, south, east, north].")
    return bounds


def _read_shards_file(path: Path | None) -> dict[str, Any]:
    try:
        return tomllib.loads((path or files("ls4_assets.domain.regions") / "shards.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"The shards file {path} cannot be read ({error}); correct LS4_SHARDS_FILE.") from None
