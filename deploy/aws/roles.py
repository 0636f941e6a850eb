"""The permissions of each kind of task as plain policy statements, with least privilege; no other module adds rights to a role.

Names are literal (bucket, queue, cluster, task family), so that a policy can be read and tested as written.
"""

from collections.abc import Mapping, Sequence

from aws_cdk import aws_iam as iam
from constructs import Construct

from deploy.aws.config import Config
from deploy.aws.keys import SERVED_KEYS, STAFF, WRITTEN_KEYS


def task_role(scope: Construct, name: str, statements: Sequence[iam.PolicyStatement]) -> iam.Role:
    """A role for ECS tasks of this account with one inline policy; `name` is also its logical id."""
    documents = {"allowed": iam.PolicyDocument(statements=list(statements))} if statements else None
    role = iam.Role(scope, name, assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"), inline_policies=documents)
    resource = role.node.default_child
    assert isinstance(resource, iam.CfnRole)
    resource.override_logical_id(name)
    return role


def execution(repositories: Sequence[str], log_group: str, secrets: Sequence[str], key: str) -> list[iam.PolicyStatement]:
    """Rights of ECS itself: pull images, write the log, and read the secrets of the task."""
    statements = [
        _allow("RegistryLogin", ["ecr:GetAuthorizationToken"], ["*"]),  # this action does not support resources
        _allow("Images", ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], repositories),
        _allow("Log", ["logs:CreateLogStream", "logs:PutLogEvents"], [log_group]),
    ]
    if secrets:
        statements += [
            _allow("Secrets", ["secretsmanager:GetSecretValue"], secrets),
            _allow("SecretsKey", ["kms:Decrypt"], [key]),
        ]
    return statements


def run(config: Config) -> list[iam.PolicyStatement]:
    """Rights of runs: read the whole archive and write products. They cannot start tasks or pass roles."""
    return [
        _list_bucket(config),
        _allow("ReadArchive", ["s3:GetObject", "s3:GetObjectTagging"], [_objects(config, "*")]),
        _allow(
            "WriteProducts",
            ["s3:PutObject", "s3:PutObjectTagging", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            [_objects(config, keys) for keys in WRITTEN_KEYS],
        ),
        *_write_output(config),
        *_describe_task_definition(),
    ]


def code_server(config: Config, queue: str, topic: str, key: str) -> list[iam.PolicyStatement]:
    """Rights of the sensors: receive from the event queue, list the bucket and publish to the topic. They read no photographs."""
    return [
        _list_bucket(config),
        _allow(
            "Events",
            ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"],
            [queue],
        ),
        _allow("Notifications", ["sns:Publish"], [topic]),
        # The storage class sends a HEAD request after each upload, which needs the right to read.
        _allow("StaffList", ["s3:GetObject", "s3:PutObject"], [_objects(config, STAFF)]),
        _allow("NotificationsKey", ["kms:Decrypt", "kms:GenerateDataKey"], [key]),
        *_write_output(config),
        *_describe_task_definition(),
    ]


def daemon(config: Config, cluster: str, family: str, log_group: str, passed: Sequence[str]) -> list[iam.PolicyStatement]:
    """Rights of the daemon: start runs of one task family in one cluster with that family's two roles. No access to data."""
    region_account = f"{config.region}:{config.account}"
    in_cluster = {"ArnEquals": {"ecs:cluster": f"arn:aws:ecs:{region_account}:cluster/{cluster}"}}
    tasks = f"arn:aws:ecs:{region_account}:task/{cluster}/*"
    return [
        _allow("StartRuns", ["ecs:RunTask"], [f"arn:aws:ecs:{region_account}:task-definition/{family}:*"], in_cluster),
        _allow("TagRuns", ["ecs:TagResource"], [tasks], {"StringEquals": {"ecs:CreateAction": "RunTask"}}),
        _allow("WatchRuns", ["ecs:DescribeTasks", "ecs:StopTask"], [tasks]),
        _allow("PassRunRoles", ["iam:PassRole"], passed, {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}),
        _allow("ReadRunLogs", ["logs:GetLogEvents"], [log_group]),
        *_describe_task_definition(),
    ]


def webserver(config: Config, cluster: str) -> list[iam.PolicyStatement]:
    """Rights of the Dagster UI: show the output of runs and terminate runs."""
    tasks = f"arn:aws:ecs:{config.region}:{config.account}:task/{cluster}/*"
    return [
        _allow("TerminateRuns", ["ecs:DescribeTasks", "ecs:StopTask"], [tasks]),
        _allow("ReadOutput", ["s3:GetObject"], [_output(config)]),
        _list_output(config),
        *_describe_task_definition(),
    ]


def map_server(config: Config) -> list[iam.PolicyStatement]:
    """Rights of the map server: read served files. Without the right to list, S3 returns 403 for a missing file, not 404."""
    return [_list_bucket(config), _allow("ReadServed", ["s3:GetObject"], [_objects(config, keys) for keys in SERVED_KEYS])]


def _allow(
    sid: str, actions: Sequence[str], resources: Sequence[str], conditions: Mapping[str, object] | None = None
) -> iam.PolicyStatement:
    return iam.PolicyStatement(sid=sid, actions=list(actions), resources=list(resources), conditions=conditions)


def _objects(config: Config, keys: str) -> str:
    return f"arn:aws:s3:::{config.bucket}/{keys}"


def _list_bucket(config: Config) -> iam.PolicyStatement:
    return _allow("ListArchive", ["s3:ListBucket"], [f"arn:aws:s3:::{config.bucket}"])


def _output(config: Config) -> str:
    return f"arn:aws:s3:::{config.bucket}-logs/dagster/*"


def _list_output(config: Config) -> iam.PolicyStatement:
    return _allow(
        "ListOutput", ["s3:ListBucket"], [f"arn:aws:s3:::{config.bucket}-logs"], {"StringLike": {"s3:prefix": "dagster/*"}}
    )


def _write_output(config: Config) -> list[iam.PolicyStatement]:
    """Rights to the output of steps and sensors, which the Dagster UI shows."""
    return [_allow("Output", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], [_output(config)]), _list_output(config)]


def _describe_task_definition() -> list[iam.PolicyStatement]:
    """Right to describe the run launcher's task definition, for every Dagster process; the action does not support resources."""
    return [_allow("TaskDefinitions", ["ecs:DescribeTaskDefinition"], ["*"])]
