"""Dagster on Fargate: webserver behind an internal load balancer, daemon, code server, warm service, and the task of a run."""

from aws_cdk import Duration
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_route53 as dns
from aws_cdk import aws_route53_targets as dns_targets
from aws_cdk import aws_servicediscovery as discovery
from constructs import Construct

from deploy.aws import roles
from deploy.aws.base import BaseStack
from deploy.aws.cluster import DAGSTER_HOME, NAME, RUN_CONTAINER, RUN_FAMILY, add_container, subnet_ids
from deploy.aws.config import Config
from deploy.aws.events import QUEUE, BucketEvents
from deploy.aws.network import CODE, DAGSTER_UI, HTTPS, MAPS

DOMAIN = "ls4.internal"
MAPS_NAME = "maps"
TOPIC = "ls4-alarms"
# The definitions of all assets take about 600 MB in each Dagster process.
_MEMORY, _CPU = 2048, 1024


class DagsterServices(Construct):
    """Dagster's services and the task definition of runs; `services` has the services by name."""

    def __init__(self, scope: Construct, base: BaseStack, events: BucketEvents, zone: dns.IHostedZone) -> None:
        super().__init__(scope, "Dagster")
        self.base, self.config = base, base.config
        self.environment = _environment(base, events)
        self.secrets = {
            "PGPASSWORD": base.database.password(self, "ls4"),
            "LS4_PASSWORD_DAGSTER": base.database.password(self, "dagster"),
        }
        self.names = discovery.PrivateDnsNamespace(self, "Names", name=DOMAIN, vpc=base.network.vpc)
        run, run_roles = self._run_task()
        self.services = {
            "code": self._code_server(),
            "daemon": self._daemon(run, run_roles),
            "webserver": self._webserver(zone),
        }
        if self.config.warm.slots:
            self.services["warm"] = self._warm_service()

    def _run_task(self) -> tuple[ecs.TaskDefinition, list[iam.IRole]]:
        """The task definition of runs, which the launcher uses unchanged, and its two roles."""
        runs = self.config.runs
        task_role = roles.task_role(self, "RunTaskRole", roles.run(self.config))
        execution_role = self._execution_role("RunExecutionRole", "run")
        task = self.base.cluster.fargate_task(
            self,
            "Run",
            family=RUN_FAMILY,
            cpu=runs.cpu,
            memory_limit_mib=runs.memory,
            ephemeral_storage_gib=runs.disk_gb,
            task_role=task_role.without_policy_updates(),
            execution_role=execution_role,
        )
        self._container(task, RUN_CONTAINER, "run", ["ls4", "--help"], stop_timeout=Duration.seconds(115))
        return task, [task_role, execution_role]

    def _warm_service(self) -> ecs.FargateService:
        """The service that executes small runs. It has the rights of runs, and no port: it takes them from the database."""
        warm = self.config.warm
        task = self.base.cluster.fargate_task(
            self,
            "WarmTask",
            family="ls4-warm",
            cpu=warm.cpu,
            memory_limit_mib=warm.memory,
            ephemeral_storage_gib=warm.disk_gb,
            task_role=roles.task_role(self, "WarmRole", roles.run(self.config)).without_policy_updates(),
            execution_role=self._execution_role("WarmExecutionRole", "warm"),
        )
        command = ["python", "-m", "ls4_assets.runtime.warm_service", f"--slots={warm.slots}"]
        # The service touches this file every second, whether the database is available or not.
        health = ["CMD-SHELL", "find /tmp/ls4-warm-service -mmin -1 | grep -q ."]
        self._container(
            task,
            "warm",
            "warm",
            [*command, f"--slot-memory-mb={warm.slot_memory_mb}"],
            health,
            # The memory of a slot is that of one worker.
            environment={"LS4_WORKER_PROCESSES": "1"},
            stop_timeout=Duration.seconds(120),
        )
        # Two versions may execute runs at the same time: each run belongs to one of them.
        return self._service("Warm", task, group="Runs", min_healthy_percent=100, max_healthy_percent=200)

    def _code_server(self) -> ecs.FargateService:
        queue = f"arn:aws:sqs:{self.config.region}:{self.config.account}:{QUEUE}"
        task = self._task("Code", roles.code_server(self.config, queue, topic_arn(self.config), self.base.key.key_arn), "code")
        module = ["-m", "ls4_assets.runtime.code_server", "--module-name", "ls4_assets.definitions", "--location-name", "ls4"]
        command = ["python", *module]
        health = ["CMD", "dagster", "api", "grpc-health-check", "--port", str(CODE)]
        self._container(task, "code", "code", [*command, "--host", "0.0.0.0", "--port", str(CODE)], health, port=CODE)  # noqa: S104
        return self._service(
            "Code",
            task,
            cloud_map_options=ecs.CloudMapOptions(name="code", cloud_map_namespace=self.names, dns_ttl=Duration.seconds(10)),
            min_healthy_percent=100,
            max_healthy_percent=200,
        )

    def _daemon(self, run: ecs.TaskDefinition, run_roles: list[iam.IRole]) -> ecs.FargateService:
        """The daemon, of which only one may run: the old task stops before the new one starts."""
        log_group = self.base.cluster.logs["run"].log_group_arn
        passed = [role.role_arn for role in run_roles]
        task = self._task("Daemon", roles.daemon(self.config, NAME, RUN_FAMILY, log_group, passed), "daemon")
        health = ["CMD", "dagster-daemon", "liveness-check"]
        command = ["dagster-daemon", "run", "--workspace", f"{DAGSTER_HOME}/workspace.yaml"]
        # Without retries, a throttled RunTask marks its run as failed and drops it.
        retries = {"AWS_RETRY_MODE": "adaptive", "AWS_MAX_ATTEMPTS": "12"}
        # No code reads this variable. The daemon resolves the revision only when it starts, so a new revision, which
        # deregisters the old one, must restart the daemon.
        revision = {"DAGSTER_RUN_TASK_DEFINITION": run.task_definition_arn}
        self._container(task, "daemon", "daemon", command, health, environment=retries | revision)
        return self._service("Daemon", task, min_healthy_percent=0, max_healthy_percent=100)

    def _webserver(self, zone: dns.IHostedZone) -> ecs.FargateService:
        task = self._task("Webserver", roles.webserver(self.config, NAME), "webserver")
        command = ["python", "-m", "ls4_assets.operations.webserver", "--host", "0.0.0.0", "--port", str(DAGSTER_UI)]  # noqa: S104
        self._container(
            task, "webserver", "webserver", [*command, "--workspace", f"{DAGSTER_HOME}/workspace.yaml"], port=DAGSTER_UI
        )
        service = self._service("Webserver", task, min_healthy_percent=100, max_healthy_percent=200)
        balancer = load_balancer(self, "DagsterBalancer", self.base, public=False)
        listener = https_listener(balancer, self.config.dns.dagster, zone)
        listener.add_targets(
            "Webserver",
            port=DAGSTER_UI,
            protocol=elb.ApplicationProtocol.HTTP,
            targets=[service],
            deregistration_delay=Duration.seconds(10),
            health_check=elb.HealthCheck(path="/server_info", timeout=Duration.seconds(10), interval=Duration.seconds(30)),
        )
        return service

    def _task(self, name: str, statements: list[iam.PolicyStatement], log: str) -> ecs.FargateTaskDefinition:
        role_name = {"Code": "CodeServerRole"}.get(name, f"{name}Role")
        return self.base.cluster.fargate_task(
            self,
            f"{name}Task",
            family=f"ls4-{log}",
            cpu=_CPU,
            memory_limit_mib=_MEMORY,
            task_role=roles.task_role(self, role_name, statements).without_policy_updates(),
            execution_role=self._execution_role(role_name.replace("Role", "ExecutionRole"), log),
        )

    def _execution_role(self, name: str, log: str) -> iam.IRole:
        passwords = self.base.database.secrets
        return self.base.cluster.execution_role(self, name, log, [passwords["ls4"], passwords["dagster"]])

    def _container(
        self,
        task: ecs.TaskDefinition,
        name: str,
        log: str,
        command: list[str],
        health: list[str] | None = None,
        *,
        environment: dict[str, str] | None = None,
        port: int | None = None,
        stop_timeout: Duration | None = None,
    ) -> None:
        add_container(
            task,
            name,
            image=self.base.cluster.image("ls4"),
            command=command,
            logging=self.base.cluster.log(log),
            environment=self.environment | (environment or {}),
            secrets=self.secrets,
            port_mappings=[ecs.PortMapping(container_port=port)] if port else None,
            stop_timeout=stop_timeout,
            health_check=ecs.HealthCheck(
                command=health,
                interval=Duration.seconds(60),
                timeout=Duration.seconds(30),
                retries=3,
                start_period=Duration.seconds(120),
            )
            if health
            else None,
        )

    def _service(
        self, name: str, task: ecs.FargateTaskDefinition, *, group: str | None = None, **options: object
    ) -> ecs.FargateService:
        """A service with one task, in the security group `group` or the one with its own name."""
        network = self.base.network
        return ecs.FargateService(
            self,
            name,
            service_name=name.lower(),
            cluster=self.base.cluster.cluster,
            task_definition=task,
            desired_count=1,
            vpc_subnets=network.tasks,
            security_groups=[network.groups[group or name]],
            assign_public_ip=False,
            circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
            capacity_provider_strategies=[ecs.CapacityProviderStrategy(capacity_provider="FARGATE", weight=1)],
            propagate_tags=ecs.PropagatedTagSource.SERVICE,
            **options,  # type: ignore[arg-type]  # healthy percentages and Cloud Map options
        )


def _environment(base: BaseStack, events: BucketEvents) -> dict[str, str]:
    """The environment of all Dagster containers, runs included: each needs every variable that dagster.yaml names."""
    config, network = base.config, base.network
    never_warm = {} if config.warm.slots else {"LS4_WARM_FRAMES": "0", "LS4_WARM_REBUILD_FRAMES": "0"}
    return {
        **{f"LS4_{name.upper()}": str(value) for name, value in config.settings.items()},
        **never_warm,
        **base.database.environment,
        **config.archive_environment,
        "LS4_STORAGE": f"s3://{config.bucket}",
        "LS4_S3_REGION": config.region,
        # Server and password: libpq's PGHOST and PGPASSWORD.
        "LS4_DATABASE_URL": "postgresql+psycopg2://ls4@/ls4",
        "LS4_PUBLIC_URL": base.public_url,
        "LS4_MAP_URL": f"https://{config.dns.maps}",
        # The public address is outside the VPC, to which runs have no route.
        "LS4_MAP_INTERNAL_URL": f"http://{MAPS_NAME}.{DOMAIN}:{MAPS}",
        "LS4_DAGSTER_URL": f"https://{config.dns.dagster}",
        "LS4_WORK_DIR": "/work",
        "LS4_EVENTS_QUEUE_URL": events.queue.queue_url,
        "LS4_FARGATE": "true",
        "LS4_NOTIFY_TOPIC": topic_arn(config),
        "DAGSTER_HOME": DAGSTER_HOME,
        "DAGSTER_CODE_HOST": f"code.{DOMAIN}",
        "DAGSTER_LOGS_BUCKET": f"{config.bucket}-logs",
        "DAGSTER_RUN_CLUSTER": NAME,
        "DAGSTER_RUN_SUBNETS": subnet_ids(network.vpc, network.tasks),
        "DAGSTER_RUN_SECURITY_GROUP": network.groups["Runs"].security_group_id,
    }


def topic_arn(config: Config) -> str:
    """The ARN of the topic for alarms and for the pipeline's notifications."""
    return f"arn:aws:sns:{config.region}:{config.account}:{TOPIC}"


def load_balancer(scope: Construct, name: str, base: BaseStack, *, public: bool) -> elb.ApplicationLoadBalancer:
    """An application load balancer; `name` is also the name of its security group."""
    balancer = elb.ApplicationLoadBalancer(
        scope,
        name,
        vpc=base.network.vpc,
        internet_facing=public,
        vpc_subnets=base.network.public if public else base.network.tasks,
        security_group=base.network.groups[name],
        drop_invalid_header_fields=True,
        deletion_protection=True,
    )
    balancer.log_access_logs(base.archive.logs, name.lower())
    return balancer


def https_listener(balancer: elb.ApplicationLoadBalancer, host: str, zone: dns.IHostedZone) -> elb.ApplicationListener:
    """An HTTPS listener with a certificate that renews automatically, and the DNS record of the host."""
    certificate = acm.Certificate(balancer, "Certificate", domain_name=host, validation=acm.CertificateValidation.from_dns(zone))
    target = dns.RecordTarget.from_alias(dns_targets.LoadBalancerTarget(balancer))
    dns.ARecord(balancer, "Address", zone=zone, record_name=f"{host}.", target=target)
    return balancer.add_listener(
        "Https",
        port=HTTPS,
        certificates=[certificate],
        ssl_policy=elb.SslPolicy.TLS13_RES,
        open=False,  # network.py defines the permitted clients
    )
