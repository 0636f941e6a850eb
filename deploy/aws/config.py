"""The configuration file of an installation. Validation reports every wrong value by name before anything is synthesized."""

import tomllib
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.errors import ConfigurationError
from ls4_assets.processing.run_size import DEFAULT_DISK_GB, FARGATE, MAX_DISK_GB, MIN_DISK_GB
from ls4_assets.settings import Settings

# Copied into both images as /opt/archive.
ARCHIVE_FOLDER = Path(__file__).parents[1] / "archive"

Host = Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")]

# Settings that the stacks set themselves; a different value in [settings] would reach only some of the containers.
_SET_BY_STACKS = {
    *(
        "archive_file",
        "storage",
        "s3_region",
        "s3_endpoint_url",
        "database_url",
        # It would be in clear text in every container. The load balancer accepts connections from `dagster_clients` only.
        "dagster_password",
        "public_url",
        "map_url",
        "map_internal_url",
        "dagster_url",
        "work_dir",
    )
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _TaskSize(_Section):
    """The size of one task: `cpu` in units (1024 are one core), `memory` in MB."""

    cpu: int
    memory: int

    @model_validator(mode="after")
    def _fits_fargate(self) -> Self:
        sizes = FARGATE.get(self.cpu)
        if sizes is None or self.memory not in sizes:
            valid = "; ".join(f"cpu {cpu}: {sizes[0]} to {sizes[-1]} MB" for cpu, sizes in FARGATE.items())
            raise ValueError(
                f"Fargate does not offer {self.cpu} CPU units with {self.memory} MB; choose one of {valid}, in whole GB"
            )
        return self


class DnsConfig(_Section):
    """The host names of the maps and of the Dagster UI, which must be in `zone`."""

    zone: Host
    zone_id: Annotated[str, Field(pattern=r"^Z[A-Z0-9]+$")]
    maps: Host
    dagster: Host

    @model_validator(mode="after")
    def _are_in_zone(self) -> Self:
        for host in (self.maps, self.dagster):
            if not host.endswith(f".{self.zone}"):
                raise ValueError(f"{host} does not end with .{self.zone}; use a host name in the zone")
        return self


class DownloadsConfig(_Section):
    """A custom host name for downloads, with its certificate; without them downloads use CloudFront's own address."""

    host: Host | None = None
    certificate_arn: Annotated[str, Field(pattern=r"^arn:aws:acm:us-east-1:\d{12}:certificate/")] | None = None

    @model_validator(mode="after")
    def _are_complete(self) -> Self:
        if (self.host is None) != (self.certificate_arn is None):
            raise ValueError(
                "host and certificate_arn must be set together: CloudFront needs a certificate in us-east-1 for the host"
            )
        return self


class NetworkConfig(_Section):
    """The VPC's address range, the client networks of the Dagster UI and the staff page, and the zones with endpoints."""

    cidr: IPv4Network = IPv4Network("10.40.0.0/16")
    dagster_clients: tuple[IPv4Network, ...] = ()
    staff: tuple[IPv4Network, ...] = ()
    endpoint_zones: Literal[1, 2, 3] = 2


class DatabaseConfig(_Section):
    """The PostgreSQL server of the indexes and of Dagster. RDS supports PostGIS on each of these versions."""

    postgres: Literal["15", "16", "17"] = "16"
    instance: str = "t4g.medium"
    storage_gb: Annotated[int, Field(ge=20)] = 50
    standby: bool = True


class RunsConfig(_TaskSize):
    """The tasks that process frames and build indexes."""

    cpu: int = 2048
    memory: int = 8192
    disk_gb: Annotated[int, Field(ge=21, le=200)] = 60
    spot: bool = True


class WarmConfig(_TaskSize):
    """The service that executes small runs, at most `slots` at a time, which share its memory; 0: every run is a task."""

    cpu: int = 1024
    memory: int = 4096
    slots: Annotated[int, Field(ge=0, le=16)] = 2

    @property
    def slot_memory_mb(self) -> int:
        """The memory of one run in MB."""
        return self.memory // self.slots

    @property
    def disk_gb(self) -> int:
        """Scratch space of all runs together. A run whose estimate exceeds the default disk of a task is not warm."""
        return min(MAX_DISK_GB, max(MIN_DISK_GB, DEFAULT_DISK_GB * self.slots))


class MapsConfig(_TaskSize):
    """The tasks of the map server."""

    cpu: int = 1024
    memory: int = 4096
    min_tasks: Annotated[int, Field(ge=1)] = 2
    max_tasks: Annotated[int, Field(ge=1)] = 6

    @model_validator(mode="after")
    def _are_ordered(self) -> Self:
        if self.min_tasks > self.max_tasks:
            raise ValueError("min_tasks is greater than max_tasks")
        return self


class MountConfig(_Section):
    """EC2 instances that mount the bucket with s3fs."""

    ami: Annotated[str, Field(pattern=r"^ami-[0-9a-f]{8,17}$")]
    instance: str = "c7i.xlarge"


class Config(_Section):
    """One installation."""

    account: Annotated[str, Field(pattern=r"^\d{12}$")]
    region: Annotated[str, Field(pattern=r"^[a-z]{2}-[a-z]+-\d$")]
    zones: Annotated[tuple[str, ...], Field(min_length=2, max_length=3)]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,127}$")]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
    dns: DnsConfig
    alarm_emails: tuple[str, ...] = ()
    archive_file: Annotated[str, Field(pattern=r"^[\w.-]+\.toml$")] | None = None
    downloads: DownloadsConfig = DownloadsConfig()
    network: NetworkConfig = NetworkConfig()
    database: DatabaseConfig = DatabaseConfig()
    runs: RunsConfig = RunsConfig()
    warm: WarmConfig = WarmConfig()
    maps: MapsConfig = MapsConfig()
    settings: dict[str, str | int | float | bool] = {}
    mount: MountConfig | None = None

    @field_validator("archive_file")
    @classmethod
    def _is_a_valid_archive_file(cls, value: str | None) -> str | None:
        try:
            read_archive_file(ARCHIVE_FOLDER / value if value else None)
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def archive_environment(self) -> dict[str, str]:
        """The variable that names the archive file in the containers of both images."""
        return {"LS4_ARCHIVE_FILE": f"/opt/archive/{self.archive_file}"} if self.archive_file else {}

    @property
    def map_environment(self) -> dict[str, str]:
        """The settings that the map server reads too: grids for its own transformations."""
        return {
            f"LS4_{name.upper()}": str(self.settings[name]) for name in ("proj_grids", "proj_network") if name in self.settings
        }

    @field_validator("settings")
    @classmethod
    def _are_settings(cls, value: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        fields = set(Settings.model_fields) - _SET_BY_STACKS
        if unknown := [name for name in value if name.partition("__")[0] not in fields]:
            raise ValueError(f"{', '.join(unknown)}: not a setting that can be set here; see docs/reference/settings.md")
        return value

    @model_validator(mode="after")
    def _zones_are_in_region(self) -> Self:
        for zone in self.zones:
            if zone[:-1] != self.region:
                raise ValueError(f"zone {zone} is not in {self.region}")
        if self.network.endpoint_zones > len(self.zones):
            raise ValueError(f"endpoint_zones is greater than the number of zones, {len(self.zones)}")
        return self


def read_config(path: Path) -> Config:
    """The configuration in a TOML file. Raises ConfigurationError that lists each wrong, missing or unknown value."""
    try:
        return Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}; start with a copy of deploy/example.toml.") from None
    except ValidationError as error:
        messages = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'file'}: {each['msg']}" for each in error.errors())
        raise ConfigurationError(f"{path}: {messages}. Correct the file; deploy/example.toml shows each value.") from None
