"""The ECS cluster, the registries of the two images, the log groups, and the one-off task `ls4-init`."""

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
from deploy.aws.database import ADMINISTRATOR, ROLES, DatabaseServer
from deploy.aws.network import Network

NAME = "ls4"
RUN_FAMILY, RUN_CONTAINER = "ls4-run", "run"
INIT_FAMILY = "ls4-init"
IMAGES = ("ls4", "ls4-mapserver")
LOGS = ("init", "run", "warm", "webserver", "daemon", "code", "maps")
# The folder of deploy/dagster.yaml and deploy/workspace.yaml in the image.
DAGSTER_HOME = "/opt/dagster/production"
# The platform for which deploy/README.md builds the images.
_PLATFORM = ecs.RuntimePlatform(
    cpu_architecture=ecs.CpuArchitecture.X86_64, operating_system_family=ecs.OperatingSystemFamily.LINUX
)


class EcsCluster(Construct):
    """`images`: the registries by image name; `logs`: one log group for each kind of task."""

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
        # For runs, which specify neither a launch type nor a provider; services specify theirs. Only one provider: a strategy
        # distributes tasks by weight, and does not fall back to the other provider when Spot has no capacity (deploy/README.md).
        provider = "FARGATE_SPOT" if config.runs.spot else "FARGATE"
        self.cluster.add_default_capacity_provider_strategy([ecs.CapacityProviderStrategy(capacity_provider=provider, weight=1)])

    def image(self, name: str) -> ecs.ContainerImage:
        return ecs.ContainerImage.from_ecr_repository(self.images[name], self.config.version)

    def log(self, name: str) -> ecs.LogDriver:
        return ecs.LogDriver.aws_logs(stream_prefix=name, log_group=self.logs[name])

    def execution_role(self, scope: Construct, name: str, log: str, readable: Sequence[secrets.ISecret]) -> iam.IRole:
        """The role of ECS itself for a task: it may pull images, read exactly these secrets and write the log."""
        repositories = [repository.repository_arn for repository in self.images.values()]
        statements = roles.execution(
            repositories, self.logs[log].log_group_arn, [secret.secret_arn for secret in readable], self.key.key_arn
        )
        return roles.task_role(scope, name, statements).without_policy_updates()

    def fargate_task(
        self, scope: Construct, name: str, *, family: str, task_role: iam.IRole, execution_role: iam.IRole, **sizes: object
    ) -> ecs.FargateTaskDefinition:
        """A task definition with volumes for scratch files, because the containers' root file systems are read-only."""
        task = ecs.FargateTaskDefinition(
            scope,
            name,
            family=family,
            task_role=task_role,
            execution_role=execution_role,
            runtime_platform=_PLATFORM,
            **sizes,  # type: ignore[arg-type]  # CPU, memory and disk
        )
        for volume in ("tmp", "work"):
            task.add_volume(name=volume)
        return task


def add_container(
    task: ecs.TaskDefinition, name: str, *, volumes: Mapping[str, str] | None = None, **options: object
) -> ecs.ContainerDefinition:
    """Add a container that can write only to its volumes and has no root capabilities."""
    linux_parameters = ecs.LinuxParameters(task, f"Linux-{name}", init_process_enabled=True)
    linux_parameters.drop_capabilities(ecs.Capability.ALL)
    container = task.add_container(
        name,
        container_name=name,
        readonly_root_filesystem=True,
        user="1000",
        linux_parameters=linux_parameters,
        **options,  # type: ignore[arg-type]  # passed through to add_container
    )
    for volume, path in (volumes or {"tmp": "/tmp", "work": "/work"}).items():  # noqa: S108  # the container's own volumes
        container.add_mount_points(ecs.MountPoint(source_volume=volume, container_path=path, read_only=False))
    return container


class InitTask(Construct):
    """The task that an operator runs before the services of a new version start, and after a password changed.

    It creates or updates roles, databases and tables (`ls4 db init`), then Dagster's own tables. It can run any number of times.
    """

    def __init__(self, scope: Construct, config: Config, cluster: EcsCluster, database: DatabaseServer) -> None:
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
        # The configuration of a single server, which needs no ECS cluster: on the first start the cluster does not exist yet.
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
