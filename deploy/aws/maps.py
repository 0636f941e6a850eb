"""The map server: nginx and its workers with the sidecar that brings mapfiles, behind the public load balancer.

Where the configuration asks for it, servers of our own with the bucket mounted take the place of Fargate and the sidecar.
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
from deploy.aws.base import Base
from deploy.aws.cluster import add_container
from deploy.aws.mount import MOUNTED
from deploy.aws.network import MAPS
from deploy.aws.services import MAPS_NAME, https_listener, load_balancer

# Folders of the image that belong to the user it runs as.
HOME = "/srv/ls4"
_VOLUMES = {"tmp": "/tmp", "work": HOME}  # noqa: S108  # a volume of the container's own
_PAGE = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{MAPS}/', timeout=5)"


class Maps(Construct):
    """`targets`, `balancer` and `service`, by its name, are what alarms look at."""

    service = "maps"

    def __init__(self, scope: Construct, base: Base, zone: dns.IHostedZone, names: discovery.INamespace) -> None:
        super().__init__(scope, "Maps")
        self.base, self.config, self.names = base, base.config, names
        task_role = roles.task_role(self, "MapServerRole", roles.map_server(self.config)).without_policy_updates()
        password = base.database.secrets["mapserver"]
        execution_role = base.cluster.execution_role(self, "MapServerExecutionRole", "maps", [password])
        if self.config.mount:
            service = self._on_servers(task_role, execution_role)
        else:
            service = self._on_fargate(task_role, execution_role)
        self._scale(service)
        self.balancer = load_balancer(self, "PublicBalancer", base, public=True)
        self.balancer.add_redirect(source_port=80, target_port=443, open=False)
        self.targets = https_listener(self.balancer, self.config.dns.maps, zone).add_targets(
            "Maps",
            port=MAPS,
            protocol=elb.ApplicationProtocol.HTTP,
            targets=[service],
            deregistration_delay=Duration.seconds(60),
            # Two and a half minutes of a database that changes over must not cost the tasks, which serve again by themselves.
            health_check=elb.HealthCheck(
                path="/health", interval=Duration.seconds(30), timeout=Duration.seconds(10), unhealthy_threshold_count=10
            ),
        )

    def _on_fargate(self, task_role: iam.IRole, execution_role: iam.IRole) -> ecs.FargateService:
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
        self._front(task, f"{HOME}/mapfiles", f"{HOME}/run/collections.json", f"{HOME}/run/rejections.json", _VOLUMES)
        self._sidecar(task)
        return ecs.FargateService(
            self,
            "Maps",
            assign_public_ip=False,
            capacity_provider_strategies=[ecs.CapacityProviderStrategy(capacity_provider="FARGATE", weight=1)],
            **self._wherever_it_runs(task),
        )

    def _on_servers(self, task_role: iam.IRole, execution_role: iam.IRole) -> ecs.Ec2Service:
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
        front = self._front(
            task,
            f"{HOME}/archive/mapfiles",
            f"{HOME}/archive/derived/collections.json",
            f"{HOME}/archive/staff/rejections.json",
            _VOLUMES,
            memory=maps.memory,
            cpu=maps.cpu,
        )
        front.add_mount_points(ecs.MountPoint(source_volume="archive", container_path=f"{HOME}/archive", read_only=True))
        return ecs.Ec2Service(
            self,
            "Maps",
            capacity_provider_strategies=[
                ecs.CapacityProviderStrategy(capacity_provider=servers.provider.capacity_provider_name, weight=1)
            ],
            **self._wherever_it_runs(task),
        )

    def _wherever_it_runs(self, task: ecs.TaskDefinition) -> dict[str, Any]:
        """What the service is on Fargate and on servers alike."""
        network = self.base.network
        return {
            # No desired count: each deployment would undo what the scaling has chosen. It begins with `least` by itself.
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

    def _front(
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
        # Only the load balancer and our own runs reach the port, so who comes from the VPC is believed.
        address = ["--listen", "0.0.0.0", "--port", str(MAPS), "--proxy", str(self.config.network.cidr)]  # noqa: S104
        return add_container(
            task,
            "maps",
            volumes=volumes,
            image=self.base.cluster.image("ls4-mapserver"),
            command=["python", "-m", "mapserver", *address, *folders],
            logging=self.base.cluster.log("maps"),
            environment=self.base.database.environment | {"AWS_REGION": self.config.region},
            secrets={"PGPASSWORD": self.base.database.password(self, "mapserver")},
            port_mappings=[ecs.PortMapping(container_port=MAPS)],
            memory_limit_mib=memory,
            cpu=cpu,
            # nginx answers this without the database, whose absence no restart would mend.
            health_check=ecs.HealthCheck(
                command=["CMD", "python", "-c", _PAGE],
                interval=Duration.seconds(30),
                timeout=Duration.seconds(10),
                start_period=Duration.seconds(60),
            ),
        )

    def _sidecar(self, task: ecs.TaskDefinition) -> None:
        """It may die without the maps: they stay as they are until it is back."""
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
            # The least there is: one that ends sooner after its start stays away, which an alarm tells of (alarms.py).
            restart_attempt_period=Duration.seconds(60),
        )

    def _scale(self, service: ecs.BaseService) -> None:
        count = scaling.ScalableTarget(
            self,
            "Count",
            service_namespace=scaling.ServiceNamespace.ECS,
            resource_id=f"service/{self.base.cluster.cluster.cluster_name}/{service.service_name}",
            scalable_dimension="ecs:service:DesiredCount",
            min_capacity=self.config.maps.least,
            max_capacity=self.config.maps.most,
        )
        count.scale_to_track_metric(
            "Processor",
            target_value=60,
            predefined_metric=scaling.PredefinedMetric.ECS_SERVICE_AVERAGE_CPU_UTILIZATION,
            scale_in_cooldown=Duration.minutes(5),
            scale_out_cooldown=Duration.minutes(1),
        )
