"""The pipeline with the rights of the synthesized roles, on a moto that enforces them: sufficient, and no more than necessary.

moto supports only the condition StringEquals; test_stacks.py checks the others in the template.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import moto.settings
import pytest
from botocore.exceptions import ClientError

from ls4_assets.assets import keys
from ls4_assets.domain.export_keys import STAFF_KEY
from ls4_assets.local.postgres import Cluster
from ls4_assets_tests.deploy.conftest import Stacks, Template
from ls4_assets_tests.integration.test_ingest_events import eventbridge_message
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.s3_servers import REGION, renew_workers, s3_server_fixture  # noqa: F401
from mapserver.sync import MapfileSync
from resources.s3_storage import S3Storage

BUCKET, QUEUE = "county-photographs", "ls4-georef"
KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
COG, MAP = KEY.replace("/georef/", "/cog/"), "mapfiles/travis_usda_1958_frames.map"
ROLES = ("RunTaskRole", "WarmRole", "CodeServerRole", "DaemonRole", "WebserverRole", "MapServerRole")


@dataclass
class Account:
    """moto's only account, with one user for each role, who has exactly the role's rights."""

    endpoint_url: str
    queue_url: str
    keys: dict[str, tuple[str, str]]

    @contextmanager
    def acting_as(self, role: str) -> Iterator[None]:
        """Give this process and its workers the rights of the role."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", self.keys[role][0])
            patch.setenv("AWS_SECRET_ACCESS_KEY", self.keys[role][1])
            patch.setattr(boto3, "DEFAULT_SESSION", None)
            patch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
            renew_workers()
            yield
        renew_workers()


@pytest.fixture
def account(stacks: Stacks, s3_server: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    endpoint = s3_server("moto").endpoint_url
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    s3, iam = boto3.client("s3"), boto3.client("iam")
    s3.create_bucket(Bucket=BUCKET)
    queue = boto3.client("sqs").create_queue(QueueName=QUEUE)["QueueUrl"]
    keys = {}
    for role in ROLES:
        iam.create_user(UserName=role)
        for policy in stacks.platform.resources[role]["Properties"]["Policies"]:
            document = json.dumps(without_references(policy["PolicyDocument"], stacks.platform))
            iam.put_user_policy(UserName=role, PolicyName=policy["PolicyName"], PolicyDocument=document)
        key = iam.create_access_key(UserName=role)["AccessKey"]
        keys[role] = (key["AccessKeyId"], key["SecretAccessKey"])
    yield Account(endpoint, queue, keys)
    for role in ROLES:
        iam.delete_access_key(UserName=role, AccessKeyId=keys[role][0])
        for name in iam.list_user_policies(UserName=role)["PolicyNames"]:
            iam.delete_user_policy(UserName=role, PolicyName=name)
        iam.delete_user(UserName=role)
    bucket = S3Storage(BUCKET, endpoint, REGION)
    for entry in list(bucket.list("")):
        bucket.delete(entry.key)
    s3.delete_bucket(Bucket=BUCKET)


def without_references(value: Any, template: Template) -> Any:
    """A policy with the ARNs that CloudFormation would insert, for moto's account."""
    match value:
        case {"Fn::GetAtt": [str(name), "Arn"]}:
            resource = template.resources[name]
            queue_name = resource["Properties"].get("QueueName", name)
            arns = {"AWS::SQS::Queue": f"arn:aws:sqs:{REGION}:123456789012:{queue_name}"}
            return arns.get(resource["Type"], f"arn:aws:iam::123456789012:role/{name}")
        case {"Fn::ImportValue": _} | {"Ref": _} | {"Fn::Join": _} | {"Fn::Sub": _}:
            return "arn:aws:unknown:::elsewhere"
        case dict():
            return {name: without_references(each, template) for name, each in value.items()}
        case list():
            return [without_references(each, template) for each in value]
    return value


@pytest.fixture
def platform(account: Account, cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    places = {"s3_endpoint_url": account.endpoint_url, "s3_region": REGION, "events_queue_url": account.queue_url}
    with running_platform(cluster, tmp_path, f"s3://{BUCKET}", **places) as platform:
        yield platform


def test_pipeline_runs_with_the_rights_of_its_roles(platform: Platform, account: Account, tmp_path: Path) -> None:
    platform.drop(KEY, write_tif(tmp_path / "x.tif", photograph(300, 320)))
    boto3.client("sqs").send_message(QueueUrl=account.queue_url, MessageBody=eventbridge_message(KEY, bucket=BUCKET))
    with account.acting_as("CodeServerRole"):
        code_server = platform.with_settings()
        result = code_server.tick("ingest_events")
        assert isinstance(result, dg.SensorResult) and result.run_requests
    with account.acting_as("RunTaskRole"):
        assert [run.success for run in platform.with_settings().execute(result)] == [True]
    with account.acting_as("CodeServerRole"):
        rebuild = code_server.tick("publish_collections")
    with account.acting_as("RunTaskRole"):
        runs = platform.with_settings()
        assert [run.success for run in runs.execute(rebuild)] == [True]
        assert all(runs.run([key]).success for key in (keys.COMPILED_INDEXES, keys.ARCHIVE_CONSISTENCY))
    assert platform.state(KEY) == ("done", None)
    with account.acting_as("MapServerRole"):
        bucket = S3Storage(BUCKET, account.endpoint_url, REGION)
        (tmp_path / "mapfiles").mkdir()
        MapfileSync(
            bucket,
            tmp_path / "mapfiles",
            collections=tmp_path / "collections.json",
            state=tmp_path / "state.json",
            rejections=tmp_path / "rejections.json",
        ).sync_once()
        assert (tmp_path / MAP).exists() and (tmp_path / "collections.json").exists()
        assert bucket.read(COG, 0, 4)


def test_list_of_rejected_files_is_written_with_the_rights_of_its_role(platform: Platform, account: Account) -> None:
    """The sensor could write the list but not read it afterwards: it failed and wrote the list again at every tick."""
    with account.acting_as("CodeServerRole"):
        code_server = platform.with_settings()
        assert isinstance(code_server.tick("notifications"), dg.SensorResult)
        assert isinstance(code_server.tick("notifications"), dg.SkipReason)
    with account.acting_as("MapServerRole"):
        assert S3Storage(BUCKET, account.endpoint_url, REGION).read(STAFF_KEY)


def put(key: str) -> Callable[[], object]:
    return lambda: boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=b"x")


def get(key: str) -> Callable[[], object]:
    return lambda: boto3.client("s3").get_object(Bucket=BUCKET, Key=key)


def remove(key: str) -> Callable[[], object]:
    return lambda: boto3.client("s3").delete_object(Bucket=BUCKET, Key=key)


def run_task() -> object:
    return boto3.client("ecs").run_task(cluster="ls4", taskDefinition="ls4-run:1")


def run_other_task() -> object:
    return boto3.client("ecs").run_task(cluster="ls4", taskDefinition="ls4-code:1")


def receive() -> object:
    return boto3.client("sqs").receive_message(QueueUrl=QUEUE)


SCAN = KEY.replace("/georef/", "/scanned/")
DENIED: list[tuple[str, str, Callable[[], object]]] = [
    ("RunTaskRole", "put a source", put(KEY)),
    ("RunTaskRole", "remove a source", remove(KEY)),
    ("RunTaskRole", "put a scan", put(SCAN)),
    ("RunTaskRole", "start a task", run_task),
    ("RunTaskRole", "receive messages", receive),
    ("WarmRole", "put a source", put(KEY)),
    ("WarmRole", "start a task", run_task),
    ("CodeServerRole", "read a source", get(KEY)),
    ("CodeServerRole", "put a mapfile", put(MAP)),
    ("CodeServerRole", "start a task", run_task),
    ("DaemonRole", "read a source", get(KEY)),
    ("DaemonRole", "put a mapfile", put(MAP)),
    ("DaemonRole", "start another task", run_other_task),
    ("DaemonRole", "receive messages", receive),
    ("WebserverRole", "read a source", get(KEY)),
    ("WebserverRole", "start a task", run_task),
    ("MapServerRole", "read a source", get(KEY)),
    ("MapServerRole", "put a mapfile", put(MAP)),
    ("MapServerRole", "remove a COG", remove(COG)),
]


def test_denied_actions_return_403(account: Account) -> None:
    for key in (KEY, COG, MAP, SCAN):
        put(key)()
    statuses = {}
    for role, action, call in DENIED:
        with account.acting_as(role):
            try:
                call()
                statuses[role, action] = 200
            except ClientError as error:
                statuses[role, action] = error.response["ResponseMetadata"]["HTTPStatusCode"]
    assert {case: status for case, status in statuses.items() if status != 403} == {}
    with account.acting_as("RunTaskRole"):
        put(COG)()
        get(KEY)()
    with account.acting_as("MapServerRole"):
        get(MAP)()
