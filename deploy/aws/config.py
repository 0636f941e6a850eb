"""The one configuration file of an installation, validated: what is wrong is told by name before anything is synthesised."""

import tomllib
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ls4_assets.errors import ConfigurationError
from ls4_assets.processing.run_size import FARGATE
from ls4_assets.settings import Settings

Host = Annotated[str, Field(pattern=r"^[a-z0-9-]+(\.[a-z0-9-]+)+$")]

# The stacks' own doing: a person who sets them too would be believed by half of the containers.
_OURS = {
    *(
        "storage",
        "s3_region",
        "s3_endpoint_url",
        "database_url",
        "public_url",
        "map_url",
        "map_internal_url",
        "dagster_url",
        "work_dir",
    )
}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Task(_Section):
    """What one task is given."""

    cpu: int
    memory: int

    @model_validator(mode="after")
    def _fargate_takes_it(self) -> Self:
        sizes = FARGATE.get(self.cpu)
        if sizes is None or self.memory not in sizes:
            known = "; ".join(f"cpu {cpu}: {sizes[0]} to {sizes[-1]} MB" for cpu, sizes in FARGATE.items())
            raise ValueError(f"Fargate has no {self.cpu} units with {self.memory} MB; choose of {known}, in whole GB")
        return self


class Dns(_Section):
    """Where people find it; `maps` and `dagit` lie in `zone`."""

    zone: Host
    zone_id: Annotated[str, Field(pattern=r"^Z[A-Z0-9]+$")]
    maps: Host
    dagster_ui: Host

    @model_validator(mode="after")
    def _in_the_zone(self) -> Self:
        for host in (self.maps, self.dagster_ui):
            if not host.endswith(f".{self.zone}"):
                raise ValueError(f"{host} does not end with .{self.zone}")
        return self


class Downloads(_Section):
    """A host name of one's own for downloads: both or none."""

    host: Host | None = None
    certificate_arn: Annotated[str, Field(pattern=r"^arn:aws:acm:us-east-1:\d{12}:certificate/")] | None = None

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.host is None) != (self.certificate_arn is None):
            raise ValueError("host and certificate_arn go together: CloudFront needs the certificate, in us-east-1, for the host")
        return self


class Network(_Section):
    """Addresses."""

    cidr: IPv4Network = IPv4Network("10.40.0.0/16")
    dagit_clients: tuple[IPv4Network, ...] = ()
    staff: tuple[IPv4Network, ...] = ()
    endpoint_zones: Literal[1, 2, 3] = 2


class Database(_Section):
    """The PostgreSQL of the indexes and of Dagster. RDS has PostGIS for each of these versions."""

    postgres: Literal["15", "16", "17"] = "16"
    instance: str = "t4g.medium"
    storage_gb: Annotated[int, Field(ge=20)] = 50
    standby: bool = True


class Runs(_Task):
    """The tasks that make frames and indexes."""

    cpu: int = 2048
    memory: int = 8192
    disk_gb: Annotated[int, Field(ge=21, le=200)] = 60
    spot: bool = True


class Maps(_Task):
    """The map server's tasks."""

    cpu: int = 1024
    memory: int = 4096
    least: Annotated[int, Field(ge=1)] = 2
    most: Annotated[int, Field(ge=1)] = 6

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError("least is more than most")
        return self


class Mount(_Section):
    """Servers whose user data mounts the bucket by s3fs."""

    ami: Annotated[str, Field(pattern=r"^ami-[0-9a-f]{8,17}$")]
    instance: str = "c7i.xlarge"


class Config(_Section):
    """One installation."""

    account: Annotated[str, Field(pattern=r"^\d{12}$")]
    region: Annotated[str, Field(pattern=r"^[a-z]{2}-[a-z]+-\d$")]
    zones: Annotated[tuple[str, ...], Field(min_length=2, max_length=3)]
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,127}$")]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$")]
    dns: Dns
    alarm_emails: tuple[str, ...] = ()
    downloads: Downloads = Downloads()
    network: Network = Network()
    database: Database = Database()
    runs: Runs = Runs()
    maps: Maps = Maps()
    settings: dict[str, str | int | float | bool] = {}
    mount: Mount | None = None

    @field_validator("settings")
    @classmethod
    def _known(cls, value: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        fields = set(Settings.model_fields) - _OURS
        if unknown := [name for name in value if name.partition("__")[0] not in fields]:
            raise ValueError(f"{', '.join(unknown)}: no setting that is yours to give; see docs/configuration.md")
        return value

    @model_validator(mode="after")
    def _zones_of_the_region(self) -> Self:
        for zone in self.zones:
            if zone[:-1] != self.region:
                raise ValueError(f"zone {zone} is not in {self.region}")
        if self.network.endpoint_zones > len(self.zones):
            raise ValueError(f"endpoint_zones is more than the {len(self.zones)} zones")
        return self


def read_config(path: Path) -> Config:
    """Raises ConfigurationError that names each wrong, missing or unknown value."""
    try:
        return Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}; start from deploy/example.toml.") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'file'}: {each['msg']}" for each in error.errors())
        raise ConfigurationError(f"{path}: {wrong}; correct it (deploy/example.toml shows each value).") from None
