"""The environment, resources and connections of the containers: errors here would show only on AWS, hours later."""

import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest
from dagster_webserver.webserver import DagsterWebserver

from ls4_assets.processing.run_size import choose_run_size
from ls4_assets.runtime import warm_service
from ls4_assets.settings import Settings, load_settings
from ls4_assets_tests.deploy.conftest import Stacks, require_cdk, synthesize
from ls4_assets_tests.deploy.containers import DAGSTER, container, environment
from ls4_assets_tests.platform import CHECKOUT
from mapserver.proj_data import is_true

require_cdk()
import aws_cdk as cdk  # noqa: E402  # may be missing
from aws_cdk.assertions import Template as SynthesizedTemplate  # noqa: E402

from deploy.aws.app import FLAGS  # noqa: E402
from deploy.aws.archive import ArchiveBuckets, DownloadDistribution  # noqa: E402
from deploy.aws.config import Config, DownloadsConfig, WarmConfig  # noqa: E402

# Services that tasks never call directly: roles are passed, and other services decrypt.
NOT_CALLED = {"iam", "kms"}
# The warning time of Spot and the maximum stop timeout of Fargate.
SPOT_NOTICE_SECONDS = 120


@pytest.fixture(params=DAGSTER)
def container_settings(request: pytest.FixtureRequest, stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the platform reads in each Dagster container."""
    for name in [name for name in os.environ if name.startswith("LS4_")]:
        monkeypatch.delenv(name)
    for name, value in environment(stacks, request.param).items():
        monkeypatch.setenv(name, value)
    return load_settings()


def only_match(resources: dict[str, Any], **properties: object) -> tuple[str, dict[str, Any]]:
    """The logical id and properties of the only resource that has these properties."""
    (match,) = [(name, resource) for name, resource in resources.items() if properties.items() <= resource.items()]
    return match


# Environment


def test_every_process_reads_the_settings_of_the_installation(
    stacks: Stacks, example: Config, container_settings: Settings
) -> None:
    """Missing settings gave runs half a machine, made sensors list the bucket continuously, or stopped notifications."""
    settings = container_settings
    queue, _ = only_match(stacks.platform.of_type("AWS::SQS::Queue"), QueueName="ls4-georef")
    topic, _ = only_match(stacks.platform.of_type("AWS::SNS::Topic"))
    (distribution,) = stacks.base.of_type("AWS::CloudFront::Distribution")
    assert settings.storage == f"s3://{example.bucket}"
    assert settings.s3_region == example.region
    assert settings.events_queue_url == queue
    assert settings.fargate is True
    name = stacks.platform.resources[topic]["Properties"]["TopicName"]
    assert settings.notify_topic == f"arn:aws:sns:{example.region}:{example.account}:{name}"
    assert settings.public_url.startswith("https://") and distribution in settings.public_url
    assert (settings.map_url, settings.dagster_url) == (f"https://{example.dns.maps}", f"https://{example.dns.dagster}")
    assert str(settings.work_dir) == "/work"


@pytest.mark.parametrize("name", [*DAGSTER, "maps", "init", "migrate"])
def test_containers_that_use_the_database_have_its_address_and_a_password(stacks: Stacks, name: str) -> None:
    """Server and password are libpq's own variables: a URL with a password would be in every log."""
    variables = environment(stacks, name)
    (server,) = stacks.base.of_type("AWS::RDS::DBInstance")
    assert server in variables["PGHOST"] and "Address" in variables["PGHOST"]
    assert (variables["PGPORT"], variables["PGSSLMODE"]) == ("5432", "require")
    assert "PGPASSWORD" in {secret["Name"] for secret in container(stacks, name)["Secrets"]}
    if name in DAGSTER:
        assert variables["LS4_DATABASE_URL"] == "postgresql+psycopg2://ls4@/ls4"


def test_pipeline_and_map_server_read_the_same_archive_file(example: Config, tmp_path: Path) -> None:
    config = example.model_copy(update={"archive_file": "valley.toml"})
    stacks = synthesize(config, tmp_path / "cdk.out")
    for name in (*DAGSTER, "maps"):
        assert environment(stacks, name)["LS4_ARCHIVE_FILE"] == "/opt/archive/valley.toml", name


def test_pipeline_and_map_server_use_the_same_proj_grids(example: Config, tmp_path: Path) -> None:
    """Frames placed with a grid would be off in maps of another datum that are drawn without it."""
    settings = {"proj_grids": "/opt/archive/grids", "proj_network": True}
    stacks = synthesize(example.model_copy(update={"settings": settings}), tmp_path / "cdk.out")
    for name in (*DAGSTER, "maps"):
        variables = environment(stacks, name)
        assert variables["LS4_PROJ_GRIDS"] == "/opt/archive/grids", name
        assert is_true(variables["LS4_PROJ_NETWORK"]), name


def test_databases_are_created_as_the_administrator(stacks: Stacks) -> None:
    """As any other role the first task of an installation fails."""
    _, server = only_match(stacks.base.of_type("AWS::RDS::DBInstance"))
    assert environment(stacks, "init")["PGUSER"] == server["MasterUsername"]


def test_daemon_retries_throttled_calls(stacks: Stacks) -> None:
    """A throttled RunTask marks its run as failed and drops it."""
    variables = environment(stacks, "daemon")
    assert variables["AWS_RETRY_MODE"] == "adaptive"
    assert int(variables["AWS_MAX_ATTEMPTS"]) > 10


def test_new_revision_of_the_run_task_restarts_the_daemon(stacks: Stacks) -> None:
    """A change of [runs] deregistered the revision that the daemon's launcher used: no run started until a restart."""
    run, _ = only_match(stacks.platform.of_type("AWS::ECS::TaskDefinition"), Family="ls4-run")
    variables = container(stacks, "daemon")["Environment"]
    (variable,) = (variable for variable in variables if variable["Name"] == "DAGSTER_RUN_TASK_DEFINITION")
    # A reference to a task definition resolves to the ARN of its revision.
    assert variable["Value"] == {"Ref": run}


# Resources


def test_run_has_the_configured_disk_and_time_to_stop(stacks: Stacks, example: Config) -> None:
    """20 GB of disk filled up during a batch; a run was killed after two seconds, before it could requeue its frames."""
    _, run = only_match(stacks.platform.of_type("AWS::ECS::TaskDefinition"), Family="ls4-run")
    assert run["EphemeralStorage"] == {"SizeInGiB": example.runs.disk_gb}
    assert SPOT_NOTICE_SECONDS - 10 < container(stacks, "run")["StopTimeout"] <= SPOT_NOTICE_SECONDS


def test_warm_service_has_memory_for_all_its_runs_and_time_to_finish_them(stacks: Stacks, example: Config) -> None:
    """With two workers for each run the kernel killed runs; a service that is killed at once leaves its runs to be resumed."""
    _, task = only_match(stacks.platform.of_type("AWS::ECS::TaskDefinition"), Family="ls4-warm")
    warm, definition = example.warm, container(stacks, "warm")
    options = dict(option.removeprefix("--").split("=") for option in definition["Command"][3:])
    assert int(options["slots"]) * int(options["slot-memory-mb"]) <= int(task["Memory"]) == warm.memory
    assert environment(stacks, "warm")["LS4_WORKER_PROCESSES"] == "1"
    smallest = choose_run_size([52_000_000] * 8, 0, worker_memory_mb=1500)
    assert smallest.memory_mb <= int(options["slot-memory-mb"]), "a run of the default size is accepted"
    assert definition["StopTimeout"] == SPOT_NOTICE_SECONDS > warm_service.DRAIN_SECONDS + warm_service.INTERRUPT_SECONDS
    assert str(warm_service.HEARTBEAT_FILE.name) in definition["HealthCheck"]["Command"][1]


def test_warm_service_can_be_left_out(example: Config, tmp_path: Path) -> None:
    """Without it, each small run would report that it is down."""
    stacks = synthesize(example.model_copy(update={"warm": WarmConfig(slots=0)}), tmp_path / "cdk.out")
    names = {service["ServiceName"] for service in stacks.platform.of_type("AWS::ECS::Service").values()}
    assert names == {"code", "daemon", "webserver", "maps"}
    variables = environment(stacks, "daemon")
    assert (variables["LS4_WARM_FRAMES"], variables["LS4_WARM_REBUILD_FRAMES"]) == ("0", "0")


def test_tasks_run_on_the_platform_of_their_images(stacks: Stacks) -> None:
    """Images built on a machine with an ARM processor exited at once with `exec format error`."""
    for template in stacks:
        for task in template.of_type("AWS::ECS::TaskDefinition").values():
            assert task["RuntimePlatform"] == {"CpuArchitecture": "X86_64", "OperatingSystemFamily": "LINUX"}, task["Family"]
    readme = (CHECKOUT / "deploy" / "README.md").read_text()
    builds = re.findall(r"docker build .*", readme)
    assert len(builds) == 2 and all("--platform linux/amd64" in build for build in builds)


def test_deployment_does_not_reset_the_number_of_map_tasks(stacks: Stacks, example: Config) -> None:
    """Under load each deployment went back to the minimum number of map tasks."""
    _, service = only_match(stacks.platform.of_type("AWS::ECS::Service"), ServiceName="maps")
    assert "DesiredCount" not in service
    _, scaling = only_match(stacks.platform.of_type("AWS::ApplicationAutoScaling::ScalableTarget"))
    assert (scaling["MinCapacity"], scaling["MaxCapacity"]) == (example.maps.min_tasks, example.maps.max_tasks)


# Connections


def test_each_service_that_a_role_may_call_has_an_endpoint(stacks: Stacks) -> None:
    """These subnets have no other route: a call without an endpoint hangs until its timeout."""
    roles = [role for template in stacks for role in template.of_type("AWS::IAM::Role").values()]
    policies = [
        policy for role in roles if "ecs-tasks" in str(role["AssumeRolePolicyDocument"]) for policy in role.get("Policies", [])
    ]
    statements = [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]
    actions = [action for statement in statements for action in as_list(statement["Action"])]
    called = {action.partition(":")[0] for action in actions} - NOT_CALLED
    needed = {*called - {"ecr"}, "ecr.api", "ecr.dkr"}
    assert {"s3", "logs", "secretsmanager", "sqs", "sns", "ecs"} < needed
    assert needed == {endpoint_service(each) for each in stacks.base.of_type("AWS::EC2::VPCEndpoint").values()}


def as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def endpoint_service(endpoint: dict[str, Any]) -> str:
    name = endpoint["ServiceName"]
    if isinstance(name, dict):
        name = "".join(part if isinstance(part, str) else "us-east-1" for part in name["Fn::Join"][1])
    return str(name).partition("us-east-1.")[2]


def test_health_checks_of_load_balancers_use_existing_pages(stacks: Stacks) -> None:
    """With a missing page every new task is taken out of service, and the deployment is rolled back."""
    groups = stacks.platform.of_type("AWS::ElasticLoadBalancingV2::TargetGroup").values()
    paths = {group["Port"]: group["HealthCheckPath"] for group in groups}
    nginx = (CHECKOUT / "mapserver" / "templates" / "nginx.conf.j2").read_text()
    assert f"location = {paths[8080]} {{" in nginx
    assert f'"{paths[3000]}"' in inspect.getsource(DagsterWebserver.build_routes)
    assert len(paths) == 2


# Downloads


def test_cloudfront_signs_its_requests_to_the_bucket(stacks: Stacks) -> None:
    """The bucket is private: it returns 403 to unsigned requests, and no download works."""
    distribution, properties = only_match(stacks.base.of_type("AWS::CloudFront::Distribution"))
    (origin,) = properties["DistributionConfig"]["Origins"]
    control = stacks.base.resources[origin["OriginAccessControlId"]["Fn::GetAtt"][0]]
    assert control["Type"] == "AWS::CloudFront::OriginAccessControl"
    signing = control["Properties"]["OriginAccessControlConfig"]
    assert (signing["OriginAccessControlOriginType"], signing["SigningBehavior"]) == ("s3", "always")
    assert properties["DistributionConfig"]["DefaultCacheBehavior"]["TargetOriginId"] == origin["Id"], distribution


@pytest.mark.parametrize(
    ("host", "has_records"),
    [("photographs.example.org", True), ("example.org", True), ("photographs.notexample.org", False), (None, False)],
)
def test_custom_download_host_in_our_zone_gets_dns_records(example: Config, host: str | None, has_records: bool) -> None:
    """CloudFront accepted the host name, but DNS could not resolve it."""
    certificate = f"arn:aws:acm:us-east-1:{example.account}:certificate/0" if host else None
    config = example.model_copy(update={"downloads": DownloadsConfig(host=host, certificate_arn=certificate)})
    stack = cdk.Stack(cdk.App(context=FLAGS), env=cdk.Environment(account=config.account, region=config.region))
    DownloadDistribution(stack, config, ArchiveBuckets(stack, config))
    resources = SynthesizedTemplate.from_stack(stack).to_json()["Resources"]
    records = [resource["Properties"] for resource in resources.values() if resource["Type"] == "AWS::Route53::RecordSet"]
    assert sorted(record["Type"] for record in records) == (["A", "AAAA"] if has_records else [])
    (distribution,) = (name for name, resource in resources.items() if resource["Type"] == "AWS::CloudFront::Distribution")
    for record in records:
        assert (record["Name"], record["HostedZoneId"]) == (f"{host}.", example.dns.zone_id)
        assert record["AliasTarget"]["DNSName"] == {"Fn::GetAtt": [distribution, "DomainName"]}
