"""The ECS cluster, the registries of the two images, the log groups, and the one-off task by which an operator begins."""

from collections.abc import Mapping, Sequence

from aws_cdk import RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secrets
from constructs import Construct

from deploy.aws import roles
from deploy.aws.archive import KEPT
from deploy.aws.config import Config
from deploy.aws.database import ADMINISTRATOR, ROLES, Database
from deploy.aws.network import Network

NAME = "ls4"
RUN_FAMILY, RUN_CONTAINER = "ls4-run", "run"
INIT_FAMILY = "ls4-init"
IMAGES = ("ls4", "ls4-mapserver")
LOGS = ("init", "run", "webserver", "daemon", "code", "maps")
# The folder of deploy/dagster.yaml and deploy/workspace.yaml in the image.
DAGSTER_HOME = "/opt/dagster/production"
# As deploy/README.md has the images built.
_PLATFORM = ecs.RuntimePlatform(
    cpu_architecture=ecs.CpuArchitecture.X86_64, operating_system_family=ecs.OperatingSystemFamily.LINUX
)


class Cluster(Construct):
    """`images`: the repositories, by name; `logs`: a group for each kind of task."""

    def __init__(self, scope: Construct, config: Config, network: Network, key: kms.IKey) -> None:
        super().__init__(scope, "Cluster")
        self.config, self.key = config, key
        self.images = {
            name: ecr.Repository(
                self,
                f"Image-{name}",
                repository_name=name,
                image_scan_on_push=True,
                image_tag_mutability=ecr.TagMutability.IMMUTABLE,
                lifecycle_rules=[ecr.LifecycleRule(max_image_count=20)],
                removal_policy=KEPT,
                encryption=ecr.RepositoryEncryption.AES_256,
            )
            for name in IMAGES
        }
        self.logs = {
            name: logs.LogGroup(
                self,
                f"Log-{name}",
                log_group_name=f"/ls4/{name}",
                retention=logs.RetentionDays.THREE_MONTHS,
                encryption_key=key,
                removal_policy=RemovalPolicy.DESTROY,
            )
            for name in LOGS
        }
        self.cluster = ecs.Cluster(
            self,
            "Cluster",
            cluster_name=NAME,
            vpc=network.vpc,
            container_insights_v2=ecs.ContainerInsights.ENABLED,
            enable_fargate_capacity_providers=True,
        )
        # What a run is started on, which names neither a launch type nor a provider. Services say for themselves. One provider:
        # a strategy shares tasks out by weight, and sends none to the other where Spot has no room (deploy/README.md).
        provider = "FARGATE_SPOT" if config.runs.spot else "FARGATE"
        self.cluster.add_default_capacity_provider_strategy([ecs.CapacityProviderStrategy(capacity_provider=provider, weight=1)])

    def image(self, name: str) -> ecs.ContainerImage:
        return ecs.ContainerImage.from_ecr_repository(self.images[name], self.config.version)

    def log(self, name: str) -> ecs.LogDriver:
        return ecs.LogDriver.aws_logs(stream_prefix=name, log_group=self.logs[name])

    def execution_role(self, scope: Construct, name: str, log: str, read: Sequence[secrets.ISecret]) -> iam.IRole:
        """Whom ECS itself acts as for a task: it pulls the image, hands over exactly these secrets and opens the log."""
        repositories = [repository.repository_arn for repository in self.images.values()]
        statements = roles.execution(
            repositories, self.logs[log].log_group_arn, [each.secret_arn for each in read], self.key.key_arn
        )
        return roles.task_role(scope, name, statements).without_policy_updates()

    def fargate_task(
        self, scope: Construct, name: str, *, family: str, task_role: iam.IRole, execution_role: iam.IRole, **more: object
    ) -> ecs.FargateTaskDefinition:
        """A task definition whose scratch folders are volumes, as nothing else of a container may be written to."""
        task = ecs.FargateTaskDefinition(
            scope,
            name,
            family=family,
            task_role=task_role,
            execution_role=execution_role,
            runtime_platform=_PLATFORM,
            **more,  # type: ignore[arg-type]  # sizes
        )
        for volume in ("tmp", "work"):
            task.add_volume(name=volume)
        return task


def add_container(
    task: ecs.TaskDefinition, name: str, *, volumes: Mapping[str, str] | None = None, **more: object
) -> ecs.ContainerDefinition:
    """A container that can write to its volumes and nowhere else, and has no capability of root."""
    hardened = ecs.LinuxParameters(task, f"Linux-{name}", init_process_enabled=True)
    hardened.drop_capabilities(ecs.Capability.ALL)
    container = task.add_container(
        name,
        container_name=name,
        readonly_root_filesystem=True,
        user="1000",
        linux_parameters=hardened,
        **more,  # type: ignore[arg-type]
    )
    for volume, path in (volumes or {"tmp": "/tmp", "work": "/work"}).items():  # noqa: S108  # a volume of the container's own
        container.add_mount_points(ecs.MountPoint(source_volume=volume, container_path=path, read_only=False))
    return container


class InitTask(Construct):
    """To be run by hand before the services of a new version are there, and after a password was changed: roles, databases and
    tables (`ls4 db init`), and then Dagster's own tables. Whatever is right already is left as it is.
    """

    def __init__(self, scope: Construct, config: Config, cluster: Cluster, database: Database) -> None:
        super().__init__(scope, "Init")
        task = cluster.fargate_task(
            self,
            "Task",
            family=INIT_FAMILY,
            cpu=512,
            memory_limit_mib=1024,
            task_role=roles.task_role(self, "InitTaskRole", []).without_policy_updates(),
            execution_role=cluster.execution_role(self, "InitExecutionRole", "init", list(database.secrets.values())),
        )
        passwords = {role: database.password(self, role) for role in ROLES}
        image, log = cluster.image("ls4"), cluster.log("init")
        init = add_container(
            task,
            "init",
            image=image,
            command=["ls4", "db", "init"],
            logging=log,
            essential=False,
            environment=database.environment | {"PGUSER": ADMINISTRATOR},
            secrets={
                "PGPASSWORD": database.password(self, ADMINISTRATOR, "password"),
                **{f"LS4_PASSWORD_{role.upper()}": password for role, password in passwords.items()},
            },
        )
        # As on a single server, whose configuration asks for no cluster: on a first start there is none to be asked.
        single = {"DAGSTER_HOME": "/opt/dagster/single", "LS4_DAGSTER_DATABASE_URL": "postgresql+psycopg2://dagster@/dagster"}
        migrate = add_container(
            task,
            "migrate",
            image=image,
            command=["dagster", "instance", "migrate"],
            logging=log,
            environment=database.environment | single,
            secrets={"PGPASSWORD": passwords["dagster"]},
        )
        migrate.add_container_dependencies(
            ecs.ContainerDependency(container=init, condition=ecs.ContainerDependencyCondition.SUCCESS)
        )


def subnet_ids(vpc: ec2.IVpc, selection: ec2.SubnetSelection) -> str:
    return ",".join(vpc.select_subnets(subnet_type=selection.subnet_type).subnet_ids)
