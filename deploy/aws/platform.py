"""The stack that changes with each version: events, services, map server, alarms."""

from aws_cdk import Stack
from constructs import Construct

from deploy.aws.alarms import Alarms
from deploy.aws.base import Base
from deploy.aws.events import Events
from deploy.aws.maps import Maps
from deploy.aws.network import zone_of
from deploy.aws.services import Dagster


class Platform(Stack):
    """Everything that runs."""

    def __init__(self, scope: Construct, base: Base) -> None:
        config = base.config
        super().__init__(
            scope,
            "ls4-platform",
            env={"account": config.account, "region": config.region},
            description="ls4: Dagster and the map server",
        )
        zone = zone_of(self, config)
        events = Events(self, config)
        dagster = Dagster(self, base, events, zone)
        maps = Maps(self, base, zone, dagster.names)
        Alarms(self, base, events, maps, [*dagster.services, maps.service])
