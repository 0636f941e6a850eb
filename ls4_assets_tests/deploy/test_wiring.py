"""What containers are told and how they reach it: what is missing or misspelt here shows on AWS only, hours later."""

import inspect
import os
import re
from typing import Any

import pytest
from dagster_webserver.webserver import DagsterWebserver

from ls4_assets.settings import Settings, load_settings
from ls4_assets_tests.deploy.conftest import Stacks, require_cdk
from ls4_assets_tests.deploy.containers import DAGSTER, container, environment
from ls4_assets_tests.platform import CHECKOUT

require_cdk()
import aws_cdk as cdk  # noqa: E402  # what may be missing
from aws_cdk.assertions import Template as Synthesised  # noqa: E402

from deploy.aws.app import FLAGS  # noqa: E402
from deploy.aws.archive import Archive, Downloads  # noqa: E402
from deploy.aws.config import Config  # noqa: E402
from deploy.aws.config import Downloads as DownloadsConfig  # noqa: E402

# What no task calls itself: roles are passed on, and decrypting is the other services' doing.
NO_CALLS = {"iam", "kms"}
# Spot gives so many seconds, and Fargate no more.
NOTICE = 120


@pytest.fixture(params=DAGSTER)
def told(request: pytest.FixtureRequest, stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Settings]:
    """A container and the settings that the platform reads in it."""
    for name in [name for name in os.environ if name.startswith("LS4_")]:
        monkeypatch.delenv(name)
    for name, value in environment(stacks, request.param).items():
        monkeypatch.setenv(name, value)
    return request.param, load_settings()


def one(found: dict[str, Any], **properties: object) -> tuple[str, dict[str, Any]]:
    """The logical id and properties of the one resource that has these."""
    (match,) = [(name, each) for name, each in found.items() if properties.items() <= each.items()]
    return match


# What they are told


def test_every_process_reads_the_installations_settings(stacks: Stacks, example: Config, told: tuple[str, Settings]) -> None:
    """Without one of them runs had half a machine, sensors listed the bucket all day, or nobody was told of a failure."""
    _, settings = told
    queue, _ = one(stacks.platform.of_type("AWS::SQS::Queue"), QueueName="ls4-georef")
    topic, _ = one(stacks.platform.of_type("AWS::SNS::Topic"))
    (distribution,) = stacks.base.of_type("AWS::CloudFront::Distribution")
    assert settings.storage == f"s3://{example.bucket}"
    assert settings.s3_region == example.region
    assert settings.events_queue_url == queue
    assert settings.fargate is True
    name = stacks.platform.resources[topic]["Properties"]["TopicName"]
    assert settings.notify_topic == f"arn:aws:sns:{example.region}:{example.account}:{name}"
    assert settings.public_url.startswith("https://") and distribution in settings.public_url
    assert (settings.map_url, settings.dagster_url) == (f"https://{example.dns.maps}", f"https://{example.dns.dagster_ui}")
    assert str(settings.work_dir) == "/work"


@pytest.mark.parametrize("name", [*DAGSTER, "maps", "init", "migrate"])
def test_whoever_asks_the_database_finds_it_and_has_a_password(stacks: Stacks, name: str) -> None:
    """Server and password are libpq's own variables: an address with a password in it would be in every log."""
    given = environment(stacks, name)
    (server,) = stacks.base.of_type("AWS::RDS::DBInstance")
    assert server in given["PGHOST"] and "Address" in given["PGHOST"]
    assert (given["PGPORT"], given["PGSSLMODE"]) == ("5432", "require")
    assert "PGPASSWORD" in {each["Name"] for each in container(stacks, name)["Secrets"]}
    if name in DAGSTER:
        assert given["LS4_DATABASE_URL"] == "postgresql+psycopg2://ls4@/ls4"


def test_databases_are_made_by_the_servers_administrator(stacks: Stacks) -> None:
    """As anybody else the first task of an installation is rejected."""
    _, server = one(stacks.base.of_type("AWS::RDS::DBInstance"))
    assert environment(stacks, "init")["PGUSER"] == server["MasterUsername"]


def test_the_daemon_waits_when_aws_does(stacks: Stacks) -> None:
    """A throttled RunTask marks its run as failed, and drops it."""
    given = environment(stacks, "daemon")
    assert given["AWS_RETRY_MODE"] == "adaptive"
    assert int(given["AWS_MAX_ATTEMPTS"]) > 10


def test_a_new_revision_of_runs_starts_the_daemon_anew(stacks: Stacks) -> None:
    """A change of [runs] deregistered the revision that the daemon's launcher held: no run started until it was restarted."""
    run, _ = one(stacks.platform.of_type("AWS::ECS::TaskDefinition"), Family="ls4-run")
    (given,) = (each for each in container(stacks, "daemon")["Environment"] if each["Name"] == "DAGSTER_RUN_TASK_DEFINITION")
    # The value of a reference to a definition is the ARN of its revision.
    assert given["Value"] == {"Ref": run}


# What they have


def test_a_run_has_the_disk_that_was_asked_for_and_the_time_to_leave(stacks: Stacks, example: Config) -> None:
    """20 GB of disk filled up in the middle of a batch; after two seconds a run was killed before it gave its frames back."""
    _, run = one(stacks.platform.of_type("AWS::ECS::TaskDefinition"), Family="ls4-run")
    assert run["EphemeralStorage"] == {"SizeInGiB": example.runs.disk_gb}
    assert NOTICE - 10 < container(stacks, "run")["StopTimeout"] <= NOTICE


def test_tasks_run_on_what_their_images_are_built_for(stacks: Stacks) -> None:
    """Images built on a laptop with an ARM processor ended at once with `exec format error`."""
    for template in stacks:
        for task in template.of_type("AWS::ECS::TaskDefinition").values():
            assert task["RuntimePlatform"] == {"CpuArchitecture": "X86_64", "OperatingSystemFamily": "LINUX"}, task["Family"]
    readme = (CHECKOUT / "deploy" / "README.md").read_text()
    builds = re.findall(r"docker build .*", readme)
    assert len(builds) == 2 and all("--platform linux/amd64" in build for build in builds)


def test_a_deployment_leaves_the_number_of_map_tasks_to_the_scaling(stacks: Stacks, example: Config) -> None:
    """In the middle of a rush each deployment went back to the least number of map tasks."""
    _, service = one(stacks.platform.of_type("AWS::ECS::Service"), ServiceName="maps")
    assert "DesiredCount" not in service
    _, scaling = one(stacks.platform.of_type("AWS::ApplicationAutoScaling::ScalableTarget"))
    assert (scaling["MinCapacity"], scaling["MaxCapacity"]) == (example.maps.least, example.maps.most)


# Whom they reach


def test_each_service_that_a_role_may_call_has_an_endpoint(stacks: Stacks) -> None:
    """There is no other way out of these subnets: a call without an endpoint hangs until its time is up."""
    roles = [role for template in stacks for role in template.of_type("AWS::IAM::Role").values()]
    policies = [
        policy for role in roles if "ecs-tasks" in str(role["AssumeRolePolicyDocument"]) for policy in role.get("Policies", [])
    ]
    statements = [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]
    actions = [each["Action"] if isinstance(each["Action"], list) else [each["Action"]] for each in statements]
    called = {action.partition(":")[0] for each in actions for action in each} - NO_CALLS
    needed = {*called - {"ecr"}, "ecr.api", "ecr.dkr"}
    assert {"s3", "logs", "secretsmanager", "sqs", "sns", "ecs"} < needed
    assert needed == {endpoint_service(each) for each in stacks.base.of_type("AWS::EC2::VPCEndpoint").values()}


def endpoint_service(endpoint: dict[str, Any]) -> str:
    name = endpoint["ServiceName"]
    if isinstance(name, dict):
        name = "".join(part if isinstance(part, str) else "us-east-1" for part in name["Fn::Join"][1])
    return str(name).partition("us-east-1.")[2]


def test_balancers_ask_after_pages_that_are_there(stacks: Stacks) -> None:
    """A page that is not there takes every new task out of service, and the deployment goes back."""
    groups = stacks.platform.of_type("AWS::ElasticLoadBalancingV2::TargetGroup").values()
    asked = {group["Port"]: group["HealthCheckPath"] for group in groups}
    nginx = (CHECKOUT / "mapserver" / "templates" / "nginx.conf.j2").read_text()
    assert f"location = {asked[8080]} {{" in nginx
    assert f'"{asked[3000]}"' in inspect.getsource(DagsterWebserver.build_routes)
    assert len(asked) == 2


# Downloads


def test_the_bucket_knows_cloudfront_by_its_signature(stacks: Stacks) -> None:
    """The bucket is closed: to a request that is not signed it answers 403, and no download works."""
    distribution, properties = one(stacks.base.of_type("AWS::CloudFront::Distribution"))
    (origin,) = properties["DistributionConfig"]["Origins"]
    control = stacks.base.resources[origin["OriginAccessControlId"]["Fn::GetAtt"][0]]
    assert control["Type"] == "AWS::CloudFront::OriginAccessControl"
    signing = control["Properties"]["OriginAccessControlConfig"]
    assert (signing["OriginAccessControlOriginType"], signing["SigningBehavior"]) == ("s3", "always")
    assert properties["DistributionConfig"]["DefaultCacheBehavior"]["TargetOriginId"] == origin["Id"], distribution


@pytest.mark.parametrize(
    ("host", "named"),
    [("photographs.example.org", True), ("example.org", True), ("photographs.notexample.org", False), (None, False)],
)
def test_a_host_of_downloads_in_our_zone_is_found(example: Config, host: str | None, named: bool) -> None:
    """CloudFront answered to the name, and no name server knew it."""
    certificate = f"arn:aws:acm:us-east-1:{example.account}:certificate/0" if host else None
    config = example.model_copy(update={"downloads": DownloadsConfig(host=host, certificate_arn=certificate)})
    stack = cdk.Stack(cdk.App(context=FLAGS), env=cdk.Environment(account=config.account, region=config.region))
    Downloads(stack, config, Archive(stack, config))
    resources = Synthesised.from_stack(stack).to_json()["Resources"]
    records = [each["Properties"] for each in resources.values() if each["Type"] == "AWS::Route53::RecordSet"]
    assert sorted(record["Type"] for record in records) == (["A", "AAAA"] if named else [])
    (distribution,) = (name for name, each in resources.items() if each["Type"] == "AWS::CloudFront::Distribution")
    for record in records:
        assert (record["Name"], record["HostedZoneId"]) == (f"{host}.", example.dns.zone_id)
        assert record["AliasTarget"]["DNSName"] == {"Fn::GetAtt": [distribution, "DomainName"]}
