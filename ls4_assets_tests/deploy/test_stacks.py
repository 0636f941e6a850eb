"""The properties of the synthesized templates."""

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest

from ls4_assets.domain.film_types import FILM_TYPES, FilmType
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.settings import Settings
from ls4_assets_tests.deploy.conftest import Stacks, require_cdk
from ls4_assets_tests.platform import CHECKOUT, frame_of
from resources.s3_storage import INTERMEDIATE_TAG

require_cdk()
from deploy.aws.keys import NEVER_DROPS, PUBLIC_KEYS, SERVED_KEYS, WRITTEN_KEYS  # noqa: E402

DROP = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
FRAME = frame_of(DROP)
COLLECTION = Collection("Travis", "USDA_1958", "frames")
SNAPSHOT = CHECKOUT / "ls4_assets_tests" / "deploy" / "access.json"


def only_value(resources: dict[str, Any]) -> Any:
    assert len(resources) == 1, list(resources)
    return next(iter(resources.values()))


def statements(stacks: Stacks, role: str) -> dict[str, Any]:
    policy = stacks.platform.resources[role]["Properties"]["Policies"][0]["PolicyDocument"]
    return {statement["Sid"]: statement for statement in policy["Statement"]}


def as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def actions(stacks: Stacks, role: str) -> set[str]:
    return {action for statement in statements(stacks, role).values() for action in as_list(statement["Action"])}


# Bucket


def test_archive_is_versioned_and_private_without_acls(stacks: Stacks) -> None:
    buckets = stacks.base.of_type("AWS::S3::Bucket")
    assert len(buckets) == 2
    for name, bucket in buckets.items():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}, name
        assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}], name
        assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}, name
        assert "AccessControl" not in bucket, name


def test_persistent_resources_are_retained_except_after_a_failed_first_deployment(stacks: Stacks) -> None:
    """Buckets and registries of a failed first deployment blocked the next one: their names were taken."""
    types = ("AWS::S3::Bucket", "AWS::ECR::Repository", "AWS::KMS::Key")
    persistent = {name: resource for name, resource in stacks.base.resources.items() if resource["Type"] in types}
    assert len(persistent) == 5
    for name, resource in persistent.items():
        assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain"), name


def test_intermediates_expire_by_the_tag_that_the_pipeline_writes(stacks: Stacks) -> None:
    archive = next(bucket for name, bucket in stacks.base.of_type("AWS::S3::Bucket").items() if "Photographs" in name)
    rules = {rule["Id"]: rule for rule in archive["LifecycleConfiguration"]["Rules"]}
    key, value = INTERMEDIATE_TAG.split("=")
    assert rules["intermediates"]["TagFilters"] == [{"Key": key, "Value": value}]
    # Apart from these, only replaced versions and unfinished uploads expire.
    assert [name for name, rule in rules.items() if "ExpirationInDays" in rule] == ["intermediates"]
    # In a versioned bucket expiration only hides an object: it was stored and billed for 90 more days.
    assert rules["intermediates"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 1}
    assert rules["replaced"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 90}
    assert rules["replaced"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}


def test_templates_have_no_lambda_function_dummy_zone_or_local_path(stacks: Stacks) -> None:
    for template in stacks:
        text = template.path.read_text()
        assert "AWS::Lambda" not in text
        assert "dummy1" not in text
        assert str(CHECKOUT) not in text


# Events


def matches_rule(pattern: dict[str, Any], key: str) -> bool:
    """Whether the EventBridge rule matches an event for this key; implements only the syntax that the rule uses."""
    (matcher,) = pattern["detail"]["object"]["key"]
    (operator, operand), (inner, patterns) = next(iter(matcher.items())), next(iter(matcher["anything-but"].items()))
    assert (operator, inner) == ("anything-but", "wildcard"), operand
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
def test_products_are_not_drops(stacks: Stacks, key: str, is_drop: bool) -> None:
    """A product that counts as a drop would trigger products without end."""
    rule = next(rule for name, rule in stacks.platform.of_type("AWS::Events::Rule").items() if "Drops" in name)
    pattern = rule["EventPattern"]
    assert sorted(pattern["detail-type"]) == ["Object Created", "Object Deleted"]
    assert pattern["detail"]["bucket"]["name"] == ["county-photographs"]
    assert matches_rule(pattern, key) is is_drop


def test_no_key_that_a_run_may_write_is_a_drop() -> None:
    for keys in WRITTEN_KEYS:
        example = keys.replace("*", "x")
        assert any(fnmatchcase(example, each) for each in NEVER_DROPS), keys


def test_unprocessed_events_go_to_the_dead_letter_queue(stacks: Stacks) -> None:
    queues = {queue["QueueName"]: queue for queue in stacks.platform.of_type("AWS::SQS::Queue").values()}
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
def test_rights_by_key(key: str, public: bool, written: bool, served: bool) -> None:
    assert (matches(PUBLIC_KEYS, key), matches(WRITTEN_KEYS, key), matches(SERVED_KEYS, key)) == (public, written, served)


@pytest.mark.parametrize("film_type", FILM_TYPES)
def test_rights_are_those_of_every_film_type(film_type: FilmType) -> None:
    """The map server could not read the COGs of an added film type."""
    frame = Frame(COLLECTION, film_type, "02-08-60_6-107")
    rights = {
        f"{frame.folder}/georef/{frame.stem}.tif": (False, False, False),
        f"{frame.scan_prefix}TIF": (True, False, False),
        frame.deflate_key: (False, True, False),
        frame.overviews_key: (False, True, False),
        frame.cog_key: (True, True, True),
        COLLECTION.tile_index_key(film_type, ".shp"): (True, True, True),
    }
    assert rights == {key: (matches(PUBLIC_KEYS, key), matches(WRITTEN_KEYS, key), matches(SERVED_KEYS, key)) for key in rights}


@pytest.mark.parametrize("role", ["RunTaskRole", "WarmRole"])
def test_run_can_start_no_task_and_pass_no_role(stacks: Stacks, role: str) -> None:
    """A warm service in the daemon's task would share its role: runs could start tasks, and the daemon read photographs."""
    assert actions(stacks, role) == {
        *("s3:ListBucket", "s3:GetObject", "s3:GetObjectTagging", "s3:PutObject", "s3:PutObjectTagging"),
        *("s3:DeleteObject", "s3:AbortMultipartUpload", "ecs:DescribeTaskDefinition"),
    }


def test_code_server_has_one_queue_and_reads_no_photograph(stacks: Stacks) -> None:
    allowed = statements(stacks, "CodeServerRole")
    assert allowed["Events"]["Resource"] == "arn:aws:sqs:us-east-1:111122223333:ls4-georef"
    assert allowed["Notifications"]["Resource"] == "arn:aws:sns:us-east-1:111122223333:ls4-alarms"
    reading = [statement for statement in allowed.values() if "s3:GetObject" in as_list(statement["Action"])]
    readable = ["arn:aws:s3:::county-photographs/staff/*", "arn:aws:s3:::county-photographs-logs/dagster/*"]
    assert [statement["Resource"] for statement in reading] == readable


def test_daemon_starts_one_task_family_with_two_roles_and_has_no_data_access(stacks: Stacks) -> None:
    allowed = statements(stacks, "DaemonRole")
    assert allowed["StartRuns"]["Resource"] == "arn:aws:ecs:us-east-1:111122223333:task-definition/ls4-run:*"
    assert allowed["StartRuns"]["Condition"] == {"ArnEquals": {"ecs:cluster": "arn:aws:ecs:us-east-1:111122223333:cluster/ls4"}}
    passed = [each["Fn::GetAtt"][0] for each in allowed["PassRunRoles"]["Resource"]]
    assert sorted(passed) == ["RunExecutionRole", "RunTaskRole"]
    assert not any(action.startswith(("s3:", "sqs:", "secretsmanager:")) for action in actions(stacks, "DaemonRole"))


def test_webserver_terminates_runs_and_starts_none(stacks: Stacks) -> None:
    assert actions(stacks, "WebserverRole") == {
        *("ecs:DescribeTasks", "ecs:StopTask", "ecs:DescribeTaskDefinition", "s3:GetObject", "s3:ListBucket"),
    }


def test_map_server_only_reads(stacks: Stacks) -> None:
    assert actions(stacks, "MapServerRole") == {"s3:ListBucket", "s3:GetObject"}
    secret = statements(stacks, "MapServerExecutionRole")["Secrets"]["Resource"]
    assert "mapserver" in json.dumps(secret)
    assert isinstance(secret, dict)  # a single secret, not a list


def test_roles_have_only_their_inline_policy(stacks: Stacks) -> None:
    attached = [name for template in stacks for name in template.of_type("AWS::IAM::Policy")]
    assert [name for name in attached if "FlowLog" not in name] == []
    roles = {name: role for template in stacks for name, role in template.of_type("AWS::IAM::Role").items()}
    assert [name for name, role in roles.items() if "ManagedPolicyArns" in role] == []


# Tasks


def test_containers_are_unprivileged(stacks: Stacks) -> None:
    containers = [
        container
        for template in stacks
        for task in template.of_type("AWS::ECS::TaskDefinition").values()
        for container in task["ContainerDefinitions"]
    ]
    assert len(containers) == 9
    for container in containers:
        assert (container["User"], container["ReadonlyRootFilesystem"]) == ("1000", True), container["Name"]
        assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}, container["Name"]
        variables = [variable["Name"] for variable in container.get("Environment", [])]
        assert [name for name in variables if "PASSWORD" in name] == [], container["Name"]


def test_settings_of_containers_are_valid(stacks: Stacks) -> None:
    """With a misspelled setting no process would start."""
    valid = {f"LS4_{name.upper()}" for name in Settings.model_fields} | {"LS4_PASSWORD_DAGSTER"}
    used = {
        variable["Name"]
        for task in stacks.platform.of_type("AWS::ECS::TaskDefinition").values()
        for container in task["ContainerDefinitions"]
        for kind in ("Environment", "Secrets")
        for variable in container.get(kind, [])
        if variable["Name"].startswith("LS4_")
    }
    assert len(used) > 5
    assert used - valid == set()


def test_deployment_never_starts_a_second_daemon(stacks: Stacks) -> None:
    services = stacks.platform.of_type("AWS::ECS::Service").values()
    service = next(service for service in services if service["ServiceName"] == "daemon")
    configuration = service["DeploymentConfiguration"]
    assert (service["DesiredCount"], configuration["MinimumHealthyPercent"], configuration["MaximumPercent"]) == (1, 0, 100)


def test_runs_use_the_default_strategy_of_the_cluster_and_services_do_not(stacks: Stacks) -> None:
    default = only_value(stacks.base.of_type("AWS::ECS::ClusterCapacityProviderAssociations"))
    assert default["DefaultCapacityProviderStrategy"] == [{"CapacityProvider": "FARGATE_SPOT", "Weight": 1}]
    for service in stacks.platform.of_type("AWS::ECS::Service").values():
        assert service["CapacityProviderStrategy"] == [{"CapacityProvider": "FARGATE", "Weight": 1}], service["ServiceName"]
        assert "LaunchType" not in service


# Database


def test_log_groups_of_the_database_exist_before_it_and_expire(stacks: Stacks) -> None:
    """A log group that RDS creates never expires, and CloudFormation cannot create it again."""
    (name,) = stacks.base.of_type("AWS::RDS::DBInstance")
    server = stacks.base.resources[name]
    groups = {
        name: group
        for name, group in stacks.base.of_type("AWS::Logs::LogGroup").items()
        if str(group["LogGroupName"]).startswith("/aws/rds/instance/ls4/")
    }
    assert server["Properties"]["DBInstanceIdentifier"] == "ls4"
    assert {group["LogGroupName"].rpartition("/")[2] for group in groups.values()} == set(
        server["Properties"]["EnableCloudwatchLogsExports"]
    )
    assert set(groups) <= set(server["DependsOn"])


def test_database_is_encrypted_backed_up_and_requires_tls(stacks: Stacks) -> None:
    server = only_value(stacks.base.of_type("AWS::RDS::DBInstance"))
    assert (server["StorageEncrypted"], server["DeletionProtection"], server["BackupRetentionPeriod"]) == (True, True, 14)
    assert (server["PubliclyAccessible"], server["MultiAZ"], server["EngineVersion"]) == (False, True, "16")
    assert only_value(stacks.base.of_type("AWS::RDS::DBParameterGroup"))["Parameters"]["rds.force_ssl"] == "1"


# Network


def test_only_the_maps_are_public(stacks: Stacks) -> None:
    groups = stacks.base.of_type("AWS::EC2::SecurityGroup")
    public = {
        group["GroupDescription"]
        for group in groups.values()
        for rule in group.get("SecurityGroupIngress", [])
        if rule.get("CidrIp") == "0.0.0.0/0"
    }
    assert public == {"The load balancer of the maps"}
    balancers = {each["Scheme"] for each in stacks.platform.of_type("AWS::ElasticLoadBalancingV2::LoadBalancer").values()}
    assert balancers == {"internal", "internet-facing"}


def test_tasks_can_read_the_layers_of_their_image(stacks: Stacks) -> None:
    """Without this bucket in the endpoint's policy no task starts, and no log shows the cause."""
    gateway = next(
        each for each in stacks.base.of_type("AWS::EC2::VPCEndpoint").values() if each.get("VpcEndpointType") == "Gateway"
    )
    assert "arn:aws:s3:::prod-us-east-1-starport-layer-bucket/*" in json.dumps(gateway["PolicyDocument"])


def test_cloudfront_can_read_only_public_keys(stacks: Stacks) -> None:
    policy = next(policy for name, policy in stacks.base.of_type("AWS::S3::BucketPolicy").items() if "Photographs" in name)
    statements = policy["PolicyDocument"]["Statement"]
    (statement,) = (statement for statement in statements if "cloudfront" in json.dumps(statement["Principal"]))
    assert statement["Action"] == "s3:GetObject"
    text = json.dumps(statement["Resource"])
    assert [keys for keys in PUBLIC_KEYS if f"/{keys}" not in text] == []
    assert len(statement["Resource"]) == len(PUBLIC_KEYS)
    assert "AWS:SourceArn" in statement["Condition"]["StringEquals"]


def test_every_alarm_says_what_to_do_and_has_recipients(stacks: Stacks) -> None:
    alarms = stacks.platform.of_type("AWS::CloudWatch::Alarm")
    names = {alarm["AlarmName"] for alarm in alarms.values()}
    assert {"ls4-EventsUnprocessed", "ls4-RunsFailing", "ls4-MapServersUnhealthy", "ls4-ServiceDown-daemon"} <= names
    assert all(alarm["AlarmDescription"].endswith(".") and alarm["AlarmActions"] for alarm in alarms.values())
    rules = [name for name in stacks.platform.of_type("AWS::Events::Rule") if name.startswith("Alarms")]
    assert len(rules) == 4
    assert only_value(stacks.platform.of_type("AWS::SNS::Subscription"))["Endpoint"] == "maps@example.org"


def test_access_matches_the_reviewed_snapshot(stacks: Stacks) -> None:
    """Roles, policies and security groups. For an intended change: delete access.json, run this test again, review the diff."""
    types = ("AWS::IAM::", "AWS::EC2::SecurityGroup", "AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy")
    access = {
        template.name: {name: each for name, each in sorted(template.resources.items()) if each["Type"].startswith(types)}
        for template in stacks
    }
    text = json.dumps(access, indent=1, sort_keys=True) + "\n"
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(text)
        pytest.fail(f"{SNAPSHOT} was written again: review and commit it.")
    assert json.loads(text) == json.loads(SNAPSHOT.read_text())


# Map checks


def test_runs_check_maps_through_the_internal_address(stacks: Stacks) -> None:
    """Runs used the public address, to which they have no route: each rebuild waited for a timeout and warned."""
    (run,) = (task for task in stacks.platform.of_type("AWS::ECS::TaskDefinition").values() if task["Family"] == "ls4-run")
    variables = {variable["Name"]: variable["Value"] for variable in run["ContainerDefinitions"][0]["Environment"]}
    assert variables["LS4_MAP_INTERNAL_URL"] == "http://maps.ls4.internal:8080"
    maps = next(each for each in stacks.platform.of_type("AWS::ECS::Service").values() if each["ServiceName"] == "maps")
    (registry,) = maps["ServiceRegistries"]
    named = stacks.platform.resources[registry["RegistryArn"]["Fn::GetAtt"][0]]["Properties"]
    assert (named["Name"], named["DnsConfig"]["DnsRecords"]) == ("maps", [{"TTL": 10, "Type": "A"}])
    for direction in ("Ingress", "Egress"):
        rules = stacks.base.of_type(f"AWS::EC2::SecurityGroup{direction}").values()
        assert "Runs to Maps" in [rule["Description"] for rule in rules if rule["ToPort"] == 8080], direction


# EC2 instances with a mount


def test_ec2_instances_exist_only_with_mount_in_the_configuration(stacks: Stacks) -> None:
    assert not any(each["Type"].startswith("AWS::AutoScaling") for template in stacks for each in template.resources.values())


@pytest.mark.slow
def test_instances_mount_all_served_folders_before_the_agent_starts_tasks(mounted_stacks: Stacks) -> None:
    """The list of rejected files was configured for the map server but not mounted."""
    template = only_value(mounted_stacks.base.of_type("AWS::EC2::LaunchTemplate"))
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
