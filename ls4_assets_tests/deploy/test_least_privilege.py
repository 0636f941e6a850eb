"""The pipeline as the synthesised roles, on a moto that asks for the right to each call: enough, and no more than enough.

moto knows no condition but StringEquals; the others are asserted on the template (test_stacks.py).
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
from ls4_assets.local.postgres import Cluster
from ls4_assets.notifications.rejections import STAFF_KEY
from ls4_assets_tests.deploy.conftest import Stacks, Template
from ls4_assets_tests.integration.test_ingest_events import bridged
from ls4_assets_tests.platform import Platform, running_platform
from ls4_assets_tests.rasters import photograph, write_tif
from ls4_assets_tests.s3_servers import REGION, _renew_workers, s3_server_fixture  # noqa: F401
from mapserver.sync import Sync
from resources.s3_storage import S3Storage

BUCKET, QUEUE = "county-photographs", "ls4-georef"
KEY = "bw/Travis/USDA_1958/frames/georef/02-08-60_6-107.tif"
COG, MAP = KEY.replace("/georef/", "/cog/"), "mapfiles/travis_usda_1958_frames.map"
ROLES = ("RunTaskRole", "CodeServerRole", "DaemonRole", "WebserverRole", "MapServerRole")


@dataclass
class Account:
    """moto's only account, with a user of each role's rights and no others."""

    endpoint_url: str
    queue_url: str
    keys: dict[str, tuple[str, str]]

    @contextmanager
    def acting_as(self, role: str) -> Iterator[None]:
        """Everything of this process and its workers, with the rights of the role."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", self.keys[role][0])
            patch.setenv("AWS_SECRET_ACCESS_KEY", self.keys[role][1])
            patch.setattr(boto3, "DEFAULT_SESSION", None)
            patch.setattr(moto.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
            _renew_workers()
            yield
        _renew_workers()


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
    for found in list(bucket.list("")):
        bucket.delete(found.key)
    s3.delete_bucket(Bucket=BUCKET)


def without_references(value: Any, template: Template) -> Any:
    """The ARNs that CloudFormation would fill in; the account is moto's."""
    match value:
        case {"Fn::GetAtt": [str(name), "Arn"]}:
            resource = template.resources[name]
            named = resource["Properties"].get("QueueName", name)
            kind = {"AWS::SQS::Queue": f"arn:aws:sqs:{REGION}:123456789012:{named}"}
            return kind.get(resource["Type"], f"arn:aws:iam::123456789012:role/{name}")
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


def test_the_pipeline_runs_with_the_rights_of_its_roles(platform: Platform, account: Account, tmp_path: Path) -> None:
    platform.drop(KEY, write_tif(tmp_path / "x.tif", photograph(300, 320)))
    boto3.client("sqs").send_message(QueueUrl=account.queue_url, MessageBody=bridged(KEY, bucket=BUCKET))
    with account.acting_as("CodeServerRole"):
        hears = platform.with_settings()
        result = hears.tick("ingest_events")
        assert isinstance(result, dg.SensorResult) and result.run_requests
    with account.acting_as("RunTaskRole"):
        assert [run.success for run in platform.with_settings().execute(result)] == [True]
    with account.acting_as("CodeServerRole"):
        wanted = hears.tick("publish_collections")
    with account.acting_as("RunTaskRole"):
        runs = platform.with_settings()
        assert [run.success for run in runs.execute(wanted)] == [True]
        assert all(runs.run([key]).success for key in (keys.COMPILED, keys.ARCHIVE_CONSISTENCY))
    assert platform.state(KEY) == ("done", None)
    with account.acting_as("MapServerRole"):
        bucket = S3Storage(BUCKET, account.endpoint_url, REGION)
        (tmp_path / "mapfiles").mkdir()
        lists = {name: tmp_path / f"{name}.json" for name in ("collections", "state", "rejections")}
        Sync(bucket, tmp_path / "mapfiles", **lists).look()
        assert (tmp_path / MAP).exists() and (tmp_path / "collections.json").exists()
        assert bucket.read(COG, 0, 4)


def test_the_list_for_staff_is_kept_with_the_rights_of_its_role(platform: Platform, account: Account, tmp_path: Path) -> None:
    """Having put it, the sensor was forbidden to ask after it: it failed, and put the list again at every tick."""
    with account.acting_as("CodeServerRole"):
        tells = platform.with_settings()
        assert isinstance(tells.tick("notifications"), dg.SensorResult)
        assert isinstance(tells.tick("notifications"), dg.SkipReason)
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
    ("RunTaskRole", "take messages", receive),
    ("CodeServerRole", "read a source", get(KEY)),
    ("CodeServerRole", "put a mapfile", put(MAP)),
    ("CodeServerRole", "start a task", run_task),
    ("DaemonRole", "read a source", get(KEY)),
    ("DaemonRole", "put a mapfile", put(MAP)),
    ("DaemonRole", "start another task", run_other_task),
    ("DaemonRole", "take messages", receive),
    ("WebserverRole", "read a source", get(KEY)),
    ("WebserverRole", "start a task", run_task),
    ("MapServerRole", "read a source", get(KEY)),
    ("MapServerRole", "put a mapfile", put(MAP)),
    ("MapServerRole", "remove a COG", remove(COG)),
]


def test_what_no_role_may(account: Account) -> None:
    for key in (KEY, COG, MAP, SCAN):
        put(key)()
    answers = {}
    for role, what, call in DENIED:
        with account.acting_as(role):
            try:
                call()
                answers[role, what] = 200
            except ClientError as error:
                answers[role, what] = error.response["ResponseMetadata"]["HTTPStatusCode"]
    assert {case: answer for case, answer in answers.items() if answer != 403} == {}
    with account.acting_as("RunTaskRole"):
        put(COG)()
        get(KEY)()
    with account.acting_as("MapServerRole"):
        get(MAP)()
