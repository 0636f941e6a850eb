"""All settings of ls4, validated: everything that an operator can configure, one class for each concern.

Set a field as `LS4_<FIELD>` in the environment, or in the TOML file named by `LS4_CONFIG`; the environment takes precedence.
Nested fields are written with two underscores (`LS4_PROFILES__NC__JPEG_QUALITY=90`). docs/reference/settings.md lists them.
A new field goes into the class of its concern, with its unit and default. Constants that no operator changes belong in the
module that uses them.
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ls4_assets.domain.archive_file import ArchiveDescription, read_archive_file
from ls4_assets.domain.film_types import FILM_TYPES, FilmType, join_or
from ls4_assets.domain.names import Naming, Shards
from ls4_assets.domain.profiles import PROFILES, FrameProfile
from ls4_assets.domain.regions import RegionBounds
from ls4_assets.domain.storages import KINDS, parse_address
from ls4_assets.errors import ConfigurationError

# Variables that are not fields of Settings: the settings file, the state folder of the demo, the database of dagster.yaml, test
# data; and the input of `ls4 db init`.
OTHER_VARIABLES = {"LS4_CONFIG", "LS4_STATE", "LS4_DAGSTER_DATABASE_URL", "LS4_SHARED", "LS4_RUN_SERVER"} | {
    *("LS4_ADMIN_DATABASE_URL", "LS4_PASSWORD_DAGSTER", "LS4_PASSWORD_LS4", "LS4_PASSWORD_MAPSERVER"),
}
DEFAULT_OWNERS = ("team:operators",)
# Names of the map publishers (ls4_assets/publishing/maps.py).
MapPublisherName = Literal["mapserver", "mosaicjson"]
MosaicJsonAddresses = Literal["public", "storage"]
DEFAULT_MAP_PUBLISHERS: tuple[MapPublisherName, ...] = ("mapserver",)


@dataclass(frozen=True)
class Unit:
    """Unit of a numeric setting, for docs/reference/settings.md."""

    name: str


def _split(value: object) -> object:
    """The items of a text that commas separate, as in the environment; anything else as it is."""
    return [item.strip() for item in value.split(",")] if isinstance(value, str) else value


Items = TypeVar("Items")
CommaSeparated = Annotated[Items, NoDecode, BeforeValidator(_split)]
# Without a trailing slash, whichever way it was written.
BaseUrl = Annotated[str, AfterValidator(lambda value: value.rstrip("/"))]
Seconds = Annotated[float, Unit("s")]
WholeSeconds = Annotated[int, Unit("s")]
Bytes = Annotated[int, Unit("bytes")]
Frames = Annotated[int, Unit("frames")]
Runs = Annotated[int, Unit("runs")]


class ArchiveSettings(BaseModel):
    """Archive and storage."""

    storage: str = Field(
        description="the archive: a folder (/srv/archive), a bucket on S3 (s3://bucket) or one on Azure (az://container)"
    )
    archive_file: Path | None = Field(
        None,
        description="TOML file that describes the archive: its shards, services and map page; empty: the one that ships with ls4",
    )
    s3_endpoint_url: str | None = Field(None, description="URL of an S3 server other than AWS")
    s3_region: str | None = Field(None, description="AWS region of the bucket; None: the region of the AWS environment")
    legacy_bucket: str = Field("ls4", description="bucket named in the legacy column `location` when the storage is not on S3")
    mapfile_uid: Annotated[int, Unit("user ID")] = Field(
        0, ge=0, description="user that an s3fs mount shows as owner of a mapfile"
    )
    mapfile_gid: Annotated[int, Unit("group ID")] = Field(0, ge=0, description="group that an s3fs mount shows for a mapfile")
    database_url: SecretStr = Field(description="postgresql+psycopg2://ls4:...@host/ls4")

    @field_validator("archive_file", mode="before")
    @classmethod
    def _empty_means_default(cls, value: object) -> object:
        return value or None

    @cached_property
    def archive_description(self) -> ArchiveDescription:
        """The content of the archive file. Raises ConfigurationError."""
        return read_archive_file(self.archive_file)

    @property
    def naming(self) -> Naming:
        """The names that the archive accepts."""
        return self.archive_description.naming

    @property
    def shards(self) -> Shards:
        """Shards of the archive with their kind."""
        return self.naming.shards

    @property
    def region_bounds(self) -> RegionBounds:
        """Where photographs may be."""
        return self.archive_description.region_bounds


class AddressSettings(BaseModel):
    """Addresses, for links."""

    public_url: BaseUrl = Field(description="base URL of the download links in the tile index, without a trailing slash")
    map_url: BaseUrl = Field(description="public URL of the web front end, without a trailing slash")
    map_internal_url: BaseUrl = Field("", description="URL of the web front end for smoke tests by runs; empty: map_url")
    dagster_url: BaseUrl = Field("", description="URL of the Dagster UI, for links in messages and command output")
    staff_url: BaseUrl = Field("", description="URL of the quarantine page of rejected files, for links in notifications")

    @field_validator("dagster_url")
    @classmethod
    def _check_scheme(cls, value: str) -> str:
        """Without a scheme it would name no host, and the UI would accept loopback names only."""
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("not a URL; write it with its scheme, such as https://dagster.example.org")
        return value


class DagsterUiSettings(BaseModel):
    """Dagster UI."""

    dagster_password: SecretStr | None = Field(
        None, description="password of the user `operator` of the Dagster UI; empty: the UI asks for no login"
    )

    asset_owners: CommaSeparated[tuple[str, ...]] = Field(
        DEFAULT_OWNERS,
        min_length=1,
        description="owners of all assets in the Dagster UI: email addresses or team:name, separated by commas",
    )
    source_url: BaseUrl = Field(
        "", description="URL of the code's folder at the installed version, for links from assets; empty: no links"
    )
    history_days: Annotated[int, Unit("days")] = Field(
        90, ge=0, description="time that Dagster keeps runs and events that newer ones replaced; 0: for ever"
    )

    @field_validator("asset_owners")
    @classmethod
    def _check_owners(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for owner in value:
            if not re.fullmatch(r"team:\S.*|[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}", owner):
                raise ValueError(f"{owner!r} is not an owner; use email addresses or team:name, such as team:operators")
        return value


class IngestSettings(BaseModel):
    """Ingest: from the bucket to the queue."""

    sensor_seconds: WholeSeconds = Field(5, ge=1, description="time between two ticks of the ingest sensor")
    scan_seconds: Seconds = Field(20.0, gt=0, le=40, description="maximum duration of one scan; the next tick resumes it")
    scan_keys: Annotated[int, Unit("keys")] = Field(
        50_000, ge=1, description="maximum keys that one scan compares; the next tick resumes behind them"
    )
    settle_seconds: Seconds = Field(3.0, ge=0, description="time without a change before a file counts as completely copied")
    events_queue_url: str = Field("", description="URL of the SQS queue of bucket events; empty: the bucket is polled")
    events_per_tick: Annotated[int, Unit("messages")] = Field(
        1000, ge=1, le=10_000, description="maximum queue messages that one sensor tick receives"
    )
    full_scan_hour: Annotated[int, Unit("hour UTC")] = Field(
        8, ge=0, le=23, description="hour of the daily full scan of a bucket with an event queue"
    )
    deletion_guard_share: Annotated[float, Unit("share, 0 to 1")] = Field(
        0.2, ge=0, le=1, description="share of a collection; deletions above it wait for confirmation"
    )
    deletion_guard_frames: Frames = Field(20, ge=0, description="deletions of one collection that need no confirmation")


class RunSettings(BaseModel):
    """Runs: how frames are batched, and how many runs are open."""

    batch_size: Frames = Field(100, ge=1, le=1000, description="maximum frames in one run")
    batches_per_tick: Runs = Field(10, ge=1, le=20, description="maximum runs that one sensor tick requests")
    open_batches: Runs = Field(20, ge=1, description="maximum runs that are queued or running at the same time")
    open_batches_per_shard: Runs = Field(10, ge=1, description="maximum of those runs for one shard")
    open_batches_per_collection: Runs = Field(6, ge=1, description="maximum of those runs for one collection")
    max_attempts: Runs = Field(5, ge=1, description="crashed runs after which a frame counts as failed")
    backfill_confirm_frames: Frames = Field(
        1000, ge=0, description="largest backfill of the Dagster UI that starts without the tag `ls4/confirm`"
    )
    warm_frames: Frames = Field(
        8, ge=0, description="maximum frames of a run that the warm service executes, if it has a free slot; 0: none"
    )
    warm_rebuild_frames: Frames = Field(
        2000, ge=0, description="maximum frames of collections whose rebuild the warm service executes; 0: none"
    )
    fargate: bool = Field(False, description="runs are Fargate tasks whose CPU, memory and disk are sized by their frames")


class FrameSettings(BaseModel):
    """Frames: what is accepted, and how it is processed."""

    profiles: dict[FilmType, FrameProfile] = dict(PROFILES)
    max_pixels: Annotated[int, Unit("px")] = Field(
        1_500_000_000, gt=0, description="maximum size of a frame; a larger one is rejected"
    )
    max_source_bytes: Bytes = Field(12_000_000_000, gt=0, description="maximum size of a georef tif; a larger one is rejected")
    max_gcp_rms_px: Annotated[float, Unit("px")] = Field(
        30.0, gt=0, description="largest root mean square of the residuals of ground control points; a frame above it is rejected"
    )
    worker_processes: Frames = Field(0, ge=0, description="frames that a run processes at once; 0: one for each CPU core")
    worker_memory_mb: Annotated[int, Unit("MB")] = Field(
        1500, ge=1000, description="memory reserved for a worker; less memory means fewer workers"
    )
    frame_timeout_seconds: Seconds = Field(3600.0, gt=0, description="time after which a frame is stopped and counts as failed")
    reader_grace_seconds: Seconds = Field(
        10.0, ge=0, description="time that a replaced or removed COG is kept for clients that still read it"
    )
    proj_grids: Path | None = Field(
        None, description="folder of PROJ's grids (such as us_noaa_conus.tif), for runs and map server; empty: none"
    )
    proj_network: bool = Field(
        False, description="PROJ fetches grids that are missing from cdn.proj.org; needs access to the internet"
    )
    datum_accuracy_m: Annotated[float, Unit("m")] = Field(
        5.0,
        ge=0,
        description="stated accuracy of a frame's datum transformation; worse is reported when a missing grid improves it",
    )
    work_dir: Path | None = Field(None, description="scratch folder of the workers; None: the system's temporary folder")

    @field_validator("proj_grids", mode="before")
    @classmethod
    def _make_absolute(cls, value: object) -> object:
        """An absolute path, because processes have other working directories; an empty text means none."""
        return Path(value).absolute() if isinstance(value, str | Path) and str(value) else None

    @field_validator("profiles", mode="before")
    @classmethod
    def _complete_profiles(cls, given: object) -> object:
        """Add the defaults to the options that the operator set, and the film type, which is the name of the profile."""
        if not isinstance(given, dict):
            return given
        if unknown := [name for name in given if name not in FILM_TYPES]:
            close = difflib.get_close_matches(unknown[0], FILM_TYPES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"use {join_or([*FILM_TYPES])}"
            raise ValueError(f"{unknown[0]} is not a film type; {hint}")
        # Anything but options, such as a whole profile, is validated as it is.
        complete = {
            name: {**PROFILES[name].model_dump(), **options, "film_type": name}
            for name, options in given.items()
            if isinstance(options, dict)
        }
        return {**PROFILES, **given, **complete}

    @property
    def workers(self) -> int:
        """Frames that a run processes at once."""
        return self.worker_processes or len(os.sched_getaffinity(0))


class MapSettings(BaseModel):
    """Maps."""

    postgres_service: str = Field("ls4", description="libpq service by which MapServer connects to the database")
    map_publishers: CommaSeparated[tuple[MapPublisherName, ...]] = Field(
        DEFAULT_MAP_PUBLISHERS,
        min_length=1,
        description="map servers for which each collection is published, in this order: mapserver, mosaicjson",
    )
    mosaicjson_addresses: MosaicJsonAddresses = Field(
        "public", description="addresses of the COGs in MosaicJSON documents: their public URLs, or storage: GDAL paths"
    )

    @field_validator("map_publishers")
    @classmethod
    def _check_no_duplicates(cls, value: tuple[MapPublisherName, ...]) -> tuple[MapPublisherName, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a map publisher is listed twice; list each once")
        return value


class NotificationSettings(BaseModel):
    """Notifications, the monitor and logs."""

    notify_topic: str = Field("", description="ARN of the SNS topic for notifications; empty: only log and file")
    notify_endpoint_url: str | None = Field(None, description="URL of an SNS server other than AWS")
    notify_file: Path | None = Field(None, description="file to which each notification is also appended")
    notify_group_wait_seconds: Seconds = Field(
        60.0, ge=0, description="time without a new file after which an incident is reported"
    )
    notify_repeat_interval_seconds: Seconds = Field(
        3600.0, ge=0, description="minimum time between two notifications of the same incident"
    )
    stall_alert_seconds: Seconds = Field(
        7200.0, gt=0, description="time that frames wait, while none is finished, before that is reported"
    )
    monitor_dir: Path | None = Field(
        None,
        description="folder to which the monitor in the process of the Dagster UI writes health and metrics; None: no monitor",
    )
    log_file: Path | None = Field(None, description="file to which all processes also append their log lines, besides stderr")

    @field_validator("notify_topic")
    @classmethod
    def _check_topic_arn(cls, value: str) -> str:
        if value and not re.fullmatch(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+", value):
            raise ValueError("not the ARN of an SNS topic; use one like arn:aws:sns:us-east-1:123456789012:ls4")
        return value


# The concerns, in the order of docs/reference/settings.md.
CONCERNS = (
    ArchiveSettings,
    AddressSettings,
    DagsterUiSettings,
    IngestSettings,
    RunSettings,
    FrameSettings,
    MapSettings,
    NotificationSettings,
)


class _ConfiguredSettings(BaseSettings):
    """Reads the environment, then the file named by LS4_CONFIG."""

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


class Settings(
    ArchiveSettings,
    AddressSettings,
    DagsterUiSettings,
    IngestSettings,
    RunSettings,
    FrameSettings,
    MapSettings,
    NotificationSettings,
    _ConfiguredSettings,
):
    """All settings. A function that needs one concern takes that class."""

    model_config = SettingsConfigDict(env_prefix="LS4_", env_nested_delimiter="__", frozen=True, extra="forbid")

    @model_validator(mode="after")
    def _check_storage_sends_events(self) -> "Settings":
        if self.events_queue_url and not parse_address(self.storage)[0].capabilities.sends_events:
            senders = " or ".join(kind.example for kind in KINDS.values() if kind.capabilities.sends_events)
            raise ValueError(f"LS4_EVENTS_QUEUE_URL needs a storage that sends events, such as {senders}")
        return self


class FileCheckSettings(FrameSettings, _ConfiguredSettings):
    """The settings of `ls4 check`, which needs no archive: all others may be missing."""

    model_config = SettingsConfigDict(env_prefix="LS4_", env_nested_delimiter="__", frozen=True, extra="ignore")

    archive_file: Path | None = None

    @cached_property
    def archive_description(self) -> ArchiveDescription:
        """The content of the archive file. Raises ConfigurationError."""
        return read_archive_file(self.archive_file or None)


def load_settings(**overrides: object) -> Settings:
    """Read the settings. Raises a ConfigurationError that names each wrong, missing or misspelled setting."""
    return _load(Settings, overrides)


def load_file_check_settings() -> FileCheckSettings:
    """Read the settings that `ls4 check` needs. Raises ConfigurationError as `load_settings` does."""
    return _load(FileCheckSettings, {})


Loaded = TypeVar("Loaded", bound=_ConfiguredSettings)


def _load(kind: type[Loaded], overrides: Mapping[str, object]) -> Loaded:
    file = os.environ.get("LS4_CONFIG")
    if file and not Path(file).is_file():
        raise ConfigurationError(f"LS4_CONFIG names {file}, which is not a file; correct the path.")
    _reject_unknown_variables()
    try:
        return kind(**overrides)  # type: ignore[arg-type]  # the fields come from environment and file
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
