"""The persistent stack: network, buckets, database, registries, cluster.

It is deployed first: the services in `platform.py` need its images and databases.
"""

from aws_cdk import RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from deploy.aws.archive import KEPT, ArchiveBuckets, DownloadDistribution
from deploy.aws.cluster import EcsCluster, InitTask
from deploy.aws.config import Config
from deploy.aws.database import DatabaseServer
from deploy.aws.mount import MountedServers
from deploy.aws.network import Network


class BaseStack(Stack):
    """The resources that outlast versions, which the platform stack uses."""

    def __init__(self, scope: Construct, config: Config) -> None:
        super().__init__(
            scope,
            "ls4-base",
            env={"account": config.account, "region": config.region},
            description="ls4: network, archive, database, registry",
            termination_protection=True,
        )
        self.config = config
        self.key = _key(self, config)
        flow_logs = logs.LogGroup(
            self,
            "FlowLogs",
            log_group_name="/ls4/network",
            retention=logs.RetentionDays.ONE_MONTH,
            encryption_key=self.key,
            removal_policy=RemovalPolicy.DESTROY,
        )
        self.network = Network(self, config, flow_logs)
        self.archive = ArchiveBuckets(self, config)
        self.downloads = DownloadDistribution(self, config, self.archive)
        self.database = DatabaseServer(self, config, self.network, self.key)
        self.cluster = EcsCluster(self, config, self.network, self.key)
        # In this stack, because the cluster refers to them.
        self.servers = MountedServers(self, config, self.network, self.cluster.cluster) if config.mount else None
        InitTask(self, config, self.cluster, self.database)

    @property
    def public_url(self) -> str:
        return self.downloads.url


def _key(scope: Construct, config: Config) -> kms.Key:
    """One key for logs, secrets, database and notifications, with the AWS services that may use it for this account."""
    purpose = "ls4: logs, secrets, database, notifications"
    key = kms.Key(scope, "Key", description=purpose, enable_key_rotation=True, alias="ls4", removal_policy=KEPT)
    logs_arn = f"arn:aws:logs:{config.region}:{config.account}:log-group:*"
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="Logs",
            principals=[iam.ServicePrincipal(f"logs.{config.region}.amazonaws.com")],
            actions=["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
            resources=["*"],
            conditions={"ArnLike": {"kms:EncryptionContext:aws:logs:arn": logs_arn}},
        )
    )
    key.add_to_resource_policy(
        iam.PolicyStatement(
            sid="Alarms",
            principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
            actions=["kms:Decrypt", "kms:GenerateDataKey*"],
            resources=["*"],
            conditions={"StringEquals": {"aws:SourceAccount": config.account}},
        )
    )
    return key
