"""What the synthesised templates promise."""

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest

from ls4_assets.domain.names import Collection, Shards, parse_georef_key
from ls4_assets.settings import Settings
from ls4_assets_tests.deploy.conftest import Stacks, require_cdk
from ls4_assets_tests.platform import CHECKOUT
from resources.s3_storage import INTERMEDIATE_TAG

require_cdk()
from deploy.aws.archive import PUBLIC_KEYS  # noqa: E402  # these import the CDK, which may be missing
from deploy.aws.events import NEVER_DROPS  # noqa: E402
from deploy.aws.roles import PRODUCTS, SERVED  # noqa: E402

SHARDS: Shards = {"Travis": "county"}
DROP = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
FRAME = parse_georef_key(DROP, SHARDS)
COLLECTION = Collection("Travis", "USDA_1958", "frames")
SNAPSHOT = CHECKOUT / "ls4_assets_tests" / "deploy" / "access.json"


def only(found: dict[str, Any]) -> Any:
    assert len(found) == 1, list(found)
    return next(iter(found.values()))


def statements(stacks: Stacks, role: str) -> dict[str, Any]:
    policy = stacks.platform.resources[role]["Properties"]["Policies"][0]["PolicyDocument"]
    return {each["Sid"]: each for each in policy["Statement"]}


def listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def actions(stacks: Stacks, role: str) -> set[str]:
    return {action for each in statements(stacks, role).values() for action in listed(each["Action"])}


# The bucket


def test_the_archive_is_versioned_closed_and_keeps_no_acl(stacks: Stacks) -> None:
    buckets = stacks.base.of_type("AWS::S3::Bucket")
    assert len(buckets) == 2
    for name, bucket in buckets.items():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}, name
        assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}], name
        assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}, name
        assert "AccessControl" not in bucket, name


def test_what_lasts_is_kept_but_for_a_first_deployment_that_fails(stacks: Stacks) -> None:
    """Buckets and registries that such a deployment had left were in the way of the next: their names were taken."""
    kinds = ("AWS::S3::Bucket", "AWS::ECR::Repository", "AWS::KMS::Key")
    lasting = {name: each for name, each in stacks.base.resources.items() if each["Type"] in kinds}
    assert len(lasting) == 5
    for name, each in lasting.items():
        assert (each["DeletionPolicy"], each["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain"), name


def test_intermediates_expire_by_the_tag_that_the_pipeline_writes(stacks: Stacks) -> None:
    archive = next(each for name, each in stacks.base.of_type("AWS::S3::Bucket").items() if "Photographs" in name)
    rules = {rule["Id"]: rule for rule in archive["LifecycleConfiguration"]["Rules"]}
    key, value = INTERMEDIATE_TAG.split("=")
    assert rules["intermediates"]["TagFilters"] == [{"Key": key, "Value": value}]
    # Nothing else of the archive ever expires but what was replaced or never finished.
    assert [name for name, rule in rules.items() if "ExpirationInDays" in rule] == ["intermediates"]
    # In a bucket with versions what expires is only hidden: for 90 days more it was stored, and paid for.
    assert rules["intermediates"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
    assert rules["replaced"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 90}
    assert rules["replaced"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}


def test_no_stack_brings_a_function_or_a_zone_that_does_not_exist(stacks: Stacks) -> None:
    for template in stacks:
        text = template.path.read_text()
        assert "AWS::Lambda" not in text
        assert "dummy1" not in text
        assert str(CHECKOUT) not in text


# Events


def taken(pattern: dict[str, Any], key: str) -> bool:
    """Whether EventBridge's rule takes an event of this key; of its language only what the rule speaks."""
    (matcher,) = pattern["detail"]["object"]["key"]
    (kind, test), (word, patterns) = next(iter(matcher.items())), next(iter(matcher["anything-but"].items()))
    assert (kind, word) == ("anything-but", "wildcard"), test
    return not any(fnmatchcase(key, each) for each in patterns)


@pytest.mark.parametrize(
    ("key", "is_drop"),
    [
        (DROP, True),
        (DROP.replace(".tif", ".tfw"), True),
        ("bw/Travis/USDA_1958/frames/georef/", False),
        (FRAME.deflate_key, False),
        (f"{FRAME.deflate_key}.ovr", False),
        (FRAME.cog_key, False),
        (COLLECTION.map_key, False),
        (COLLECTION.overview_mosaic_key("7"), False),
        (COLLECTION.tile_index_key("bw", ".shp"), False),
        ("bw/Travis/USDA_1958/frames/scanned/02-08-60_6-107.TIF", False),
        ("derived/collections.json", False),
    ],
)
def test_no_product_is_taken_for_a_drop(stacks: Stacks, key: str, is_drop: bool) -> None:
    """A product that asked for products would do so for ever."""
    rule = next(each for name, each in stacks.platform.of_type("AWS::Events::Rule").items() if "Drops" in name)
    pattern = rule["EventPattern"]
    assert sorted(pattern["detail-type"]) == ["Object Created", "Object Deleted"]
    assert pattern["detail"]["bucket"]["name"] == ["county-photographs"]
    assert taken(pattern, key) is is_drop


def test_everything_that_a_run_may_write_is_no_drop() -> None:
    for keys in PRODUCTS:
        example = keys.replace("*", "x")
        assert any(fnmatchcase(example, each) for each in NEVER_DROPS), keys


def test_what_nobody_can_take_goes_to_the_second_queue(stacks: Stacks) -> None:
    queues = {each["QueueName"]: each for each in stacks.platform.of_type("AWS::SQS::Queue").values()}
    assert queues["ls4-georef"]["RedrivePolicy"]["maxReceiveCount"] == 5
    assert "RedrivePolicy" not in queues["ls4-georef-dead"]


# Roles


def matches(patterns: tuple[str, ...], key: str) -> bool:
    return any(fnmatchcase(key, each) for each in patterns)


@pytest.mark.parametrize(
    ("key", "public", "written", "served"),
    [
        (DROP, False, False, False),
        ("bw/Travis/USDA_1958/frames/scanned/02-08-60_6-107.TIF", True, False, False),
        (FRAME.deflate_key, False, True, False),
        (FRAME.cog_key, True, True, True),
        (COLLECTION.tile_index_key("bw", "_idx.zip"), True, True, True),
        (COLLECTION.overview_mosaic_key("7"), True, True, True),
        (COLLECTION.map_key, False, True, True),
        ("geojson/compiled_historical_indexes.geojson", True, True, False),
    ],
)
def test_who_may_do_what_with_a_key(key: str, public: bool, written: bool, served: bool) -> None:
    assert (matches(PUBLIC_KEYS, key), matches(PRODUCTS, key), matches(SERVED, key)) == (public, written, served)


def test_a_run_starts_nothing_and_passes_nothing_on(stacks: Stacks) -> None:
    assert actions(stacks, "RunTaskRole") == {
        *("s3:ListBucket", "s3:GetObject", "s3:GetObjectTagging", "s3:PutObject", "s3:PutObjectTagging"),
        *("s3:DeleteObject", "s3:AbortMultipartUpload", "ecs:DescribeTaskDefinition"),
    }


def test_the_code_server_has_one_queue_and_reads_no_photograph(stacks: Stacks) -> None:
    allowed = statements(stacks, "CodeServerRole")
    assert allowed["Events"]["Resource"] == "arn:aws:sqs:us-east-1:111122223333:ls4-georef"
    assert allowed["Notices"]["Resource"] == "arn:aws:sns:us-east-1:111122223333:ls4-alarms"
    reading = [each for each in allowed.values() if "s3:GetObject" in listed(each["Action"])]
    readable = ["arn:aws:s3:::county-photographs/staff/*", "arn:aws:s3:::county-photographs-logs/dagster/*"]
    assert [each["Resource"] for each in reading] == readable


def test_the_daemon_runs_one_family_in_one_cluster_as_two_roles_and_has_no_data(stacks: Stacks) -> None:
    allowed = statements(stacks, "DaemonRole")
    assert allowed["StartRuns"]["Resource"] == "arn:aws:ecs:us-east-1:111122223333:task-definition/ls4-run:*"
    assert allowed["StartRuns"]["Condition"] == {"ArnEquals": {"ecs:cluster": "arn:aws:ecs:us-east-1:111122223333:cluster/ls4"}}
    passed = [each["Fn::GetAtt"][0] for each in allowed["PassRunRoles"]["Resource"]]
    assert sorted(passed) == ["RunExecutionRole", "RunTaskRole"]
    assert not any(action.startswith(("s3:", "sqs:", "secretsmanager:")) for action in actions(stacks, "DaemonRole"))


def test_the_webserver_ends_runs_and_starts_none(stacks: Stacks) -> None:
    assert actions(stacks, "WebserverRole") == {
        *("ecs:DescribeTasks", "ecs:StopTask", "ecs:DescribeTaskDefinition", "s3:GetObject", "s3:ListBucket"),
    }


def test_the_map_server_only_reads(stacks: Stacks) -> None:
    assert actions(stacks, "MapServerRole") == {"s3:ListBucket", "s3:GetObject"}
    secret = statements(stacks, "MapServerExecutionRole")["Secrets"]["Resource"]
    assert "mapserver" in json.dumps(secret)
    assert isinstance(secret, dict)  # one, not a list of several


def test_roles_have_no_policy_but_the_one_that_is_written_here(stacks: Stacks) -> None:
    attached = [name for template in stacks for name in template.of_type("AWS::IAM::Policy")]
    assert [name for name in attached if "FlowLog" not in name] == []
    roles = {name: role for template in stacks for name, role in template.of_type("AWS::IAM::Role").items()}
    assert [name for name, role in roles.items() if "ManagedPolicyArns" in role] == []


# Tasks


def test_containers_are_nobody_special(stacks: Stacks) -> None:
    containers = [
        container
        for template in stacks
        for task in template.of_type("AWS::ECS::TaskDefinition").values()
        for container in task["ContainerDefinitions"]
    ]
    assert len(containers) == 8
    for container in containers:
        assert (container["User"], container["ReadonlyRootFilesystem"]) == ("1000", True), container["Name"]
        assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}, container["Name"]
        secret = [each["Name"] for each in container.get("Environment", []) if "PASSWORD" in each["Name"]]
        assert secret == [], container["Name"]


def test_settings_of_containers_are_settings(stacks: Stacks) -> None:
    """A misspelt one would keep every process from starting."""
    known = {f"LS4_{name.upper()}" for name in Settings.model_fields} | {"LS4_PASSWORD_DAGSTER"}
    given = {
        each["Name"]
        for task in stacks.platform.of_type("AWS::ECS::TaskDefinition").values()
        for container in task["ContainerDefinitions"]
        for kind in ("Environment", "Secrets")
        for each in container.get(kind, [])
        if each["Name"].startswith("LS4_")
    }
    assert len(given) > 5
    assert given - known == set()


def test_there_is_never_a_second_daemon(stacks: Stacks) -> None:
    service = next(each for each in stacks.platform.of_type("AWS::ECS::Service").values() if each["ServiceName"] == "daemon")
    configuration = service["DeploymentConfiguration"]
    assert (service["DesiredCount"], configuration["MinimumHealthyPercent"], configuration["MaximumPercent"]) == (1, 0, 100)


def test_runs_take_the_clusters_mix_and_services_do_not(stacks: Stacks) -> None:
    default = only(stacks.base.of_type("AWS::ECS::ClusterCapacityProviderAssociations"))
    assert default["DefaultCapacityProviderStrategy"] == [{"CapacityProvider": "FARGATE_SPOT", "Weight": 1}]
    for service in stacks.platform.of_type("AWS::ECS::Service").values():
        assert service["CapacityProviderStrategy"] == [{"CapacityProvider": "FARGATE", "Weight": 1}], service["ServiceName"]
        assert "LaunchType" not in service


# Database


def test_the_servers_logs_are_there_before_it_and_end(stacks: Stacks) -> None:
    """A log group that RDS has made keeps every line, and cannot be made a second time."""
    (name,) = stacks.base.of_type("AWS::RDS::DBInstance")
    server = stacks.base.resources[name]
    groups = {
        group: each
        for group, each in stacks.base.of_type("AWS::Logs::LogGroup").items()
        if str(each["LogGroupName"]).startswith("/aws/rds/instance/ls4/")
    }
    assert server["Properties"]["DBInstanceIdentifier"] == "ls4"
    assert {each["LogGroupName"].rpartition("/")[2] for each in groups.values()} == set(
        server["Properties"]["EnableCloudwatchLogsExports"]
    )
    assert set(groups) <= set(server["DependsOn"])


def test_the_database_is_encrypted_backed_up_and_for_tls_only(stacks: Stacks) -> None:
    server = only(stacks.base.of_type("AWS::RDS::DBInstance"))
    assert (server["StorageEncrypted"], server["DeletionProtection"], server["BackupRetentionPeriod"]) == (True, True, 14)
    assert (server["PubliclyAccessible"], server["MultiAZ"], server["EngineVersion"]) == (False, True, "16")
    assert only(stacks.base.of_type("AWS::RDS::DBParameterGroup"))["Parameters"]["rds.force_ssl"] == "1"


# Network


def test_only_the_maps_are_open_to_everybody(stacks: Stacks) -> None:
    groups = stacks.base.of_type("AWS::EC2::SecurityGroup")
    opened = {
        group["GroupDescription"]
        for group in groups.values()
        for rule in group.get("SecurityGroupIngress", [])
        if rule.get("CidrIp") == "0.0.0.0/0"
    }
    assert opened == {"The load balancer of the maps"}
    balancers = {each["Scheme"] for each in stacks.platform.of_type("AWS::ElasticLoadBalancingV2::LoadBalancer").values()}
    assert balancers == {"internal", "internet-facing"}


def test_tasks_reach_the_layers_of_their_image(stacks: Stacks) -> None:
    """Without this bucket in the endpoint's policy no task starts, and nothing says why."""
    gateway = next(
        each for each in stacks.base.of_type("AWS::EC2::VPCEndpoint").values() if each.get("VpcEndpointType") == "Gateway"
    )
    assert "arn:aws:s3:::prod-us-east-1-starport-layer-bucket/*" in json.dumps(gateway["PolicyDocument"])


def test_downloads_reach_public_keys_only(stacks: Stacks) -> None:
    policy = next(each for name, each in stacks.base.of_type("AWS::S3::BucketPolicy").items() if "Photographs" in name)
    opened = [each for each in policy["PolicyDocument"]["Statement"] if "cloudfront" in json.dumps(each["Principal"])]
    assert len(opened) == 1
    assert opened[0]["Action"] == "s3:GetObject"
    text = json.dumps(opened[0]["Resource"])
    assert [keys for keys in PUBLIC_KEYS if f"/{keys}" not in text] == []
    assert len(opened[0]["Resource"]) == len(PUBLIC_KEYS)
    assert "AWS:SourceArn" in opened[0]["Condition"]["StringEquals"]


def test_every_alarm_says_what_to_do_and_reaches_somebody(stacks: Stacks) -> None:
    alarms = stacks.platform.of_type("AWS::CloudWatch::Alarm")
    names = {each["AlarmName"] for each in alarms.values()}
    assert {"ls4-DeadEvents", "ls4-RunsFail", "ls4-MapFront", "ls4-Absent-daemon"} <= names
    assert all(each["AlarmDescription"].endswith(".") and each["AlarmActions"] for each in alarms.values())
    rules = [name for name in stacks.platform.of_type("AWS::Events::Rule") if name.startswith("Alarms")]
    assert len(rules) == 4
    assert only(stacks.platform.of_type("AWS::SNS::Subscription"))["Endpoint"] == "maps@example.org"


def test_access_is_what_was_agreed(stacks: Stacks) -> None:
    """Roles, policies and security groups. When a change is meant: delete access.json, run this again, and review its diff."""
    kinds = ("AWS::IAM::", "AWS::EC2::SecurityGroup", "AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy")
    found = {
        template.name: {name: each for name, each in sorted(template.resources.items()) if each["Type"].startswith(kinds)}
        for template in stacks
    }
    now = json.dumps(found, indent=1, sort_keys=True) + "\n"
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(now)
        pytest.fail(f"{SNAPSHOT} was written anew: review and commit it.")
    assert json.loads(now) == json.loads(SNAPSHOT.read_text())


# Trials of maps


def test_runs_reach_the_map_front_inside(stacks: Stacks) -> None:
    """They asked its public address, to which they have no way: each rebuild waited in vain, and warned."""
    (run,) = (each for each in stacks.platform.of_type("AWS::ECS::TaskDefinition").values() if each["Family"] == "ls4-run")
    told = {each["Name"]: each["Value"] for each in run["ContainerDefinitions"][0]["Environment"]}
    assert told["LS4_MAP_INTERNAL_URL"] == "http://maps.ls4.internal:8080"
    maps = next(each for each in stacks.platform.of_type("AWS::ECS::Service").values() if each["ServiceName"] == "maps")
    (registry,) = maps["ServiceRegistries"]
    named = stacks.platform.resources[registry["RegistryArn"]["Fn::GetAtt"][0]]["Properties"]
    assert (named["Name"], named["DnsConfig"]["DnsRecords"]) == ("maps", [{"TTL": 10, "Type": "A"}])
    for direction in ("Ingress", "Egress"):
        rules = stacks.base.of_type(f"AWS::EC2::SecurityGroup{direction}").values()
        assert "Runs to Maps" in [rule["Description"] for rule in rules if rule["ToPort"] == 8080], direction


# Servers of our own


def test_nothing_of_the_mount_is_there_unless_it_is_asked_for(stacks: Stacks) -> None:
    assert not any(each["Type"].startswith("AWS::AutoScaling") for template in stacks for each in template.resources.values())


@pytest.mark.slow
def test_servers_mount_what_is_served_before_the_agent_takes_tasks(mounted_stacks: Stacks) -> None:
    """The map server was told of the list for staff, which was not mounted."""
    template = only(mounted_stacks.base.of_type("AWS::EC2::LaunchTemplate"))
    script = json.dumps(template["LaunchTemplateData"]["UserData"])
    (role,) = (each for name, each in mounted_stacks.base.of_type("AWS::IAM::Role").items() if "ServerRole" in name)
    for folder in ("mapfiles", "derived", "staff"):
        assert f"arn:aws:s3:::county-photographs/{folder}/*" in json.dumps(role["Policies"])
        assert script.index(f"s3fs county-photographs:/{folder} /srv/ls4/archive/{folder} -o ro") < script.index("ECS_CLUSTER")
    assert template["LaunchTemplateData"]["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    maps = next(
        each for each in mounted_stacks.platform.of_type("AWS::ECS::TaskDefinition").values() if each["Family"] == "ls4-maps"
    )
    assert [each["Name"] for each in maps["ContainerDefinitions"]] == ["maps"]  # no sidecar
    mounts = {each["ContainerPath"]: each["ReadOnly"] for each in maps["ContainerDefinitions"][0]["MountPoints"]}
    assert mounts["/srv/ls4/archive"] is True
