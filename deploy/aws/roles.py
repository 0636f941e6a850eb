"""What each kind of task may do, as plain policy statements: least privilege, stated in one place and nowhere widened.

Names are literal (bucket, queue, cluster, family of runs), so that a policy can be read, and tested, as it stands.
"""

from collections.abc import Sequence

from aws_cdk import aws_iam as iam
from constructs import Construct

from deploy.aws.config import Config

# What the pipeline writes. In a policy `*` crosses `/`.
PRODUCTS = (
    *("bw/*/georef/deflate/*", "nc/*/georef/deflate/*", "bw/*/cog/*", "nc/*/cog/*"),
    *("mapfiles/*", "derived/*", "geojson/*"),
)
# The list of rejected files, which the sensors keep and the front shows to staff; CloudFront does not reach it.
STAFF = "staff/*"
# What MapServer opens: COGs, their later versions and overview mosaics (below derived/), and the mapfiles themselves;
# and what the page for staff shows.
SERVED = ("bw/*/cog/*", "nc/*/cog/*", "derived/*", "mapfiles/*", STAFF)


def task_role(scope: Construct, name: str, statements: Sequence[iam.PolicyStatement]) -> iam.Role:
    """A role of ECS tasks of this account, with its one policy inside; `name` is its logical id too."""
    documents = {"allowed": iam.PolicyDocument(statements=list(statements))} if statements else None
    role = iam.Role(scope, name, assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"), inline_policies=documents)
    resource = role.node.default_child
    assert isinstance(resource, iam.CfnRole)
    resource.override_logical_id(name)
    return role


def execution(repositories: Sequence[str], log_group: str, secrets: Sequence[str], key: str) -> list[iam.PolicyStatement]:
    statements = [
        _allow("RegistryLogin", ["ecr:GetAuthorizationToken"], ["*"]),  # it belongs to no repository
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
    """Reads all of the archive, writes its products; starts nothing and passes on nothing."""
    return [
        _list_bucket(config),
        _allow("ReadArchive", ["s3:GetObject", "s3:GetObjectTagging"], [_objects(config, "*")]),
        _allow(
            "WriteProducts",
            ["s3:PutObject", "s3:PutObjectTagging", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            [_objects(config, keys) for keys in PRODUCTS],
        ),
        *_write_output(config),
        *_know_launcher(),
    ]


def code_server(config: Config, queue: str, topic: str, key: str) -> list[iam.PolicyStatement]:
    """Sensors: they take from the one queue, list the bucket and tell people by the one topic. They read no photograph."""
    return [
        _list_bucket(config),
        _allow(
            "Events",
            ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"],
            [queue],
        ),
        _allow("Notices", ["sns:Publish"], [topic]),
        # Whoever puts an object asks after it: what lies there now?
        _allow("StaffList", ["s3:GetObject", "s3:PutObject"], [_objects(config, STAFF)]),
        _allow("NoticesKey", ["kms:Decrypt", "kms:GenerateDataKey"], [key]),
        *_write_output(config),
        *_know_launcher(),
    ]


def daemon(config: Config, cluster: str, family: str, log_group: str, passed: Sequence[str]) -> list[iam.PolicyStatement]:
    """Starts runs of one family in one cluster, as the two roles of that family. No right to any data."""
    where = f"{config.region}:{config.account}"
    in_cluster = {"ArnEquals": {"ecs:cluster": f"arn:aws:ecs:{where}:cluster/{cluster}"}}
    tasks = f"arn:aws:ecs:{where}:task/{cluster}/*"
    return [
        _allow("StartRuns", ["ecs:RunTask"], [f"arn:aws:ecs:{where}:task-definition/{family}:*"], in_cluster),
        _allow("TagRuns", ["ecs:TagResource"], [tasks], {"StringEquals": {"ecs:CreateAction": "RunTask"}}),
        _allow("WatchRuns", ["ecs:DescribeTasks", "ecs:StopTask"], [tasks]),
        _allow("PassRunRoles", ["iam:PassRole"], passed, {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}),
        _allow("LastWordsOfRuns", ["logs:GetLogEvents"], [log_group]),
        *_know_launcher(),
    ]


def webserver(config: Config, cluster: str) -> list[iam.PolicyStatement]:
    """Shows the output of runs and ends them at a person's word."""
    tasks = f"arn:aws:ecs:{config.region}:{config.account}:task/{cluster}/*"
    return [
        _allow("EndRuns", ["ecs:DescribeTasks", "ecs:StopTask"], [tasks]),
        _allow("ReadOutput", ["s3:GetObject"], [_output(config)]),
        _list_output(config),
        *_know_launcher(),
    ]


def map_server(config: Config) -> list[iam.PolicyStatement]:
    """Reads what is served. It may list, as without that S3 would call an absent file a forbidden one."""
    return [_list_bucket(config), _allow("ReadServed", ["s3:GetObject"], [_objects(config, keys) for keys in SERVED])]


def _allow(
    sid: str, actions: Sequence[str], resources: Sequence[str], conditions: dict[str, object] | None = None
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
    """What steps and sensors print, which the Dagster UI shows."""
    return [_allow("Output", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], [_output(config)]), _list_output(config)]


def _know_launcher() -> list[iam.PolicyStatement]:
    """Each of Dagster's processes makes the run launcher, which looks its task definition up; this action knows no resources."""
    return [_allow("TaskDefinitions", ["ecs:DescribeTaskDefinition"], ["*"])]
