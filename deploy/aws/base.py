"""The stack that lasts: network, buckets, database, registries, cluster. It comes first: services need images and databases."""

from aws_cdk import RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from deploy.aws.archive import KEPT, Archive, Downloads
from deploy.aws.cluster import Cluster, InitTask
from deploy.aws.config import Config
from deploy.aws.database import Database
from deploy.aws.mount import MountedServers
from deploy.aws.network import Network


class Base(Stack):
    """What the platform's stack is built on."""

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
        self.archive = Archive(self, config)
        self.downloads = Downloads(self, config, self.archive)
        self.database = Database(self, config, self.network, self.key)
        self.cluster = Cluster(self, config, self.network, self.key)
        # Here, with the cluster that names them.
        self.servers = MountedServers(self, config, self.network, self.cluster.cluster) if config.mount else None
        InitTask(self, config, self.cluster, self.database)

    @property
    def public_url(self) -> str:
        return self.downloads.url


def _key(scope: Construct, config: Config) -> kms.Key:
    """One key for logs, secrets, database and notices. Services that encrypt by it in the account's name are named here."""
    purpose = "ls4: logs, secrets, database, notices"
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
