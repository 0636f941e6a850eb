"""The map service: nginx with MapServer workers, and the sidecar that copies mapfiles, behind the public load balancer.

With `[mount]` in the configuration, EC2 instances that mount the bucket (`mount.py`) replace Fargate and the sidecar.
"""

from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_applicationautoscaling as scaling
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_route53 as dns
from aws_cdk import aws_servicediscovery as discovery
from constructs import Construct

from deploy.aws import roles
from deploy.aws.base import BaseStack
from deploy.aws.cluster import add_container
from deploy.aws.mount import MOUNTED
from deploy.aws.network import MAPS
from deploy.aws.services import MAPS_NAME, https_listener, load_balancer

# The folder in the image that is owned by the container's user.
HOME = "/srv/ls4"
_VOLUMES = {"tmp": "/tmp", "work": HOME}  # noqa: S108  # the container's own volume
_PAGE = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{MAPS}/', timeout=5)"


class MapService(Construct):
    """The service with its load balancer and scaling; alarms use `targets` and the service's name, `service`."""

    service = "maps"

    def __init__(self, scope: Construct, base: BaseStack, zone: dns.IHostedZone, names: discovery.INamespace) -> None:
        super().__init__(scope, "Maps")
        self.base, self.config, self.names = base, base.config, names
        task_role = roles.task_role(self, "MapServerRole", roles.map_server(self.config)).without_policy_updates()
        password = base.database.secrets["mapserver"]
        execution_role = base.cluster.execution_role(self, "MapServerExecutionRole", "maps", [password])
        create_service = self._ec2_service if self.config.mount else self._fargate_service
        service: ecs.BaseService = create_service(task_role, execution_role)
        self._scale(service)
        self.balancer = load_balancer(self, "PublicBalancer", base, public=True)
        self.balancer.add_redirect(source_port=80, target_port=443, open=False)
        self.targets = https_listener(self.balancer, self.config.dns.maps, zone).add_targets(
            "Maps",
            port=MAPS,
            protocol=elb.ApplicationProtocol.HTTP,
            targets=[service],
            deregistration_delay=Duration.seconds(60),
            # A database failover takes two and a half minutes; the tasks recover from it and must not be replaced.
            health_check=elb.HealthCheck(
                path="/health", interval=Duration.seconds(30), timeout=Duration.seconds(10), unhealthy_threshold_count=10
            ),
        )

    def _fargate_service(self, task_role: iam.IRole, execution_role: iam.IRole) -> ecs.FargateService:
        maps = self.config.maps
        task = self.base.cluster.fargate_task(
            self,
            "Task",
            family="ls4-maps",
            cpu=maps.cpu,
            memory_limit_mib=maps.memory,
            task_role=task_role,
            execution_role=execution_role,
        )
        self._map_server_container(
            task, f"{HOME}/mapfiles", f"{HOME}/run/collections.json", f"{HOME}/run/rejections.json", _VOLUMES
        )
        self._sidecar(task)
        return ecs.FargateService(
            self,
            "Maps",
            assign_public_ip=False,
            capacity_provider_strategies=[ecs.CapacityProviderStrategy(capacity_provider="FARGATE", weight=1)],
            **self._common_options(task),
        )

    def _ec2_service(self, task_role: iam.IRole, execution_role: iam.IRole) -> ecs.Ec2Service:
        maps = self.config.maps
        servers = self.base.servers
        assert servers is not None
        task = ecs.Ec2TaskDefinition(
            self,
            "Task",
            family="ls4-maps",
            network_mode=ecs.NetworkMode.AWS_VPC,
            task_role=task_role,
            execution_role=execution_role,
            volumes=[
                ecs.Volume(name="archive", host=ecs.Host(source_path=MOUNTED)),
                ecs.Volume(name="tmp"),
                ecs.Volume(name="work"),
            ],
        )
        container = self._map_server_container(
            task,
            f"{HOME}/archive/mapfiles",
            f"{HOME}/archive/derived/collections.json",
            f"{HOME}/archive/staff/rejections.json",
            _VOLUMES,
            memory=maps.memory,
            cpu=maps.cpu,
        )
        container.add_mount_points(ecs.MountPoint(source_volume="archive", container_path=f"{HOME}/archive", read_only=True))
        return ecs.Ec2Service(
            self,
            "Maps",
            capacity_provider_strategies=[
                ecs.CapacityProviderStrategy(capacity_provider=servers.provider.capacity_provider_name, weight=1)
            ],
            **self._common_options(task),
        )

    def _common_options(self, task: ecs.TaskDefinition) -> dict[str, Any]:
        """The options of the service that Fargate and EC2 share."""
        network = self.base.network
        return {
            # No desired count: each deployment would reset the count that the scaling chose. ECS starts with `min_tasks`.
            "service_name": self.service,
            "cluster": self.base.cluster.cluster,
            "task_definition": task,
            "vpc_subnets": network.tasks,
            "security_groups": [network.groups["Maps"]],
            "circuit_breaker": ecs.DeploymentCircuitBreaker(rollback=True),
            "health_check_grace_period": Duration.seconds(120),
            "min_healthy_percent": 100,
            "max_healthy_percent": 200,
            "propagate_tags": ecs.PropagatedTagSource.SERVICE,
            "cloud_map_options": ecs.CloudMapOptions(
                name=MAPS_NAME, cloud_map_namespace=self.names, dns_ttl=Duration.seconds(10)
            ),
        }

    def _map_server_container(
        self,
        task: ecs.TaskDefinition,
        mapfiles: str,
        collections: str,
        rejections: str,
        volumes: dict[str, str],
        memory: int | None = None,
        cpu: int | None = None,
    ) -> ecs.ContainerDefinition:
        folders = ["--run-dir", f"{HOME}/serving", "--mapfiles", mapfiles, "--collections", collections]
        folders += ["--rejections", rejections, *(f"--staff={network}" for network in self.config.network.staff)]
        folders += [f"--staff-host={self.config.dns.maps}"]
        # Only the load balancer and our own runs can connect to the port, so X-Forwarded-For from the VPC is trusted.
        address = ["--listen", "0.0.0.0", "--port", str(MAPS), "--proxy", str(self.config.network.cidr)]  # noqa: S104
        return add_container(
            task,
            "maps",
            volumes=volumes,
            image=self.base.cluster.image("ls4-mapserver"),
            command=["python", "-m", "mapserver", *address, *folders],
            logging=self.base.cluster.log("maps"),
            environment=self.base.database.environment
            | self.config.archive_environment
            | self.config.map_environment
            | {"AWS_REGION": self.config.region},
            secrets={"PGPASSWORD": self.base.database.password(self, "mapserver")},
            port_mappings=[ecs.PortMapping(container_port=MAPS)],
            memory_limit_mib=memory,
            cpu=cpu,
            # nginx serves this page without the database: a restart would not fix a database outage.
            health_check=ecs.HealthCheck(
                command=["CMD", "python", "-c", _PAGE],
                interval=Duration.seconds(30),
                timeout=Duration.seconds(10),
                start_period=Duration.seconds(60),
            ),
        )

    def _sidecar(self, task: ecs.TaskDefinition) -> None:
        """Add the container that copies mapfiles. It is not essential: without it the maps keep their last state."""
        folders = [
            "--mapfiles",
            f"{HOME}/mapfiles",
            "--collections",
            f"{HOME}/run/collections.json",
            "--rejections",
            f"{HOME}/run/rejections.json",
            "--state",
            f"{HOME}/run/sync.json",
        ]
        bucket = ["--storage", f"s3://{self.config.bucket}", "--region", self.config.region]
        add_container(
            task,
            "sync",
            volumes=_VOLUMES,
            image=self.base.cluster.image("ls4-mapserver"),
            command=["python", "-m", "mapserver.sync", *bucket, *folders],
            logging=self.base.cluster.log("maps"),
            essential=False,
            enable_restart_policy=True,
            # The minimum. ECS does not restart a container that exits sooner after its start; an alarm reports that (alarms.py).
            restart_attempt_period=Duration.seconds(60),
        )

    def _scale(self, service: ecs.BaseService) -> None:
        count = scaling.ScalableTarget(
            self,
            "Count",
            service_namespace=scaling.ServiceNamespace.ECS,
            resource_id=f"service/{self.base.cluster.cluster.cluster_name}/{service.service_name}",
            scalable_dimension="ecs:service:DesiredCount",
            min_capacity=self.config.maps.min_tasks,
            max_capacity=self.config.maps.max_tasks,
        )
        count.scale_to_track_metric(
            "Processor",
            target_value=60,
            predefined_metric=scaling.PredefinedMetric.ECS_SERVICE_AVERAGE_CPU_UTILIZATION,
            scale_in_cooldown=Duration.minutes(5),
            scale_out_cooldown=Duration.minutes(1),
        )
