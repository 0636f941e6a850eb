"""The stack that changes with each version: events, services, map service, alarms. The persistent resources are in `base.py`."""

from aws_cdk import Stack
from constructs import Construct

from deploy.aws.alarms import Alarms
from deploy.aws.base import BaseStack
from deploy.aws.events import BucketEvents
from deploy.aws.maps import MapService
from deploy.aws.network import hosted_zone
from deploy.aws.services import DagsterServices


class PlatformStack(Stack):
    """All services of one version."""

    def __init__(self, scope: Construct, base: BaseStack) -> None:
        config = base.config
        super().__init__(
            scope,
            "ls4-platform",
            env={"account": config.account, "region": config.region},
            description="ls4: Dagster and the map server",
        )
        zone = hosted_zone(self, config)
        events = BucketEvents(self, config)
        dagster = DagsterServices(self, base, events, zone)
        maps = MapService(self, base, zone, dagster.names)
        Alarms(self, base, events, maps, [*dagster.services, maps.service])
