"""PostgreSQL on RDS, and the passwords of its four roles.

Tasks connect through libpq's own variables (PGHOST, PGPASSWORD, ...), so no URL or file contains a password.
"""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secrets
from constructs import Construct

from deploy.aws.config import Config
from deploy.aws.network import POSTGRES, Network

IDENTIFIER = "ls4"
ADMINISTRATOR = "ls4_admin"
ROLES = ("dagster", "ls4", "mapserver")
_LOGS = ("postgresql", "upgrade")
_EXCLUDED_CHARACTERS = " %+~`#$&*()|[]{}:;<>?!'/@\"\\=,"


class DatabaseServer(Construct):
    """`secrets` has the password of each role and of the administrator, who creates the roles (`ls4 db init`)."""

    def __init__(self, scope: Construct, config: Config, network: Network, key: kms.IKey) -> None:
        super().__init__(scope, "Database")
        version = rds.PostgresEngineVersion.of(config.database.postgres, config.database.postgres)
        engine = rds.DatabaseInstanceEngine.postgres(version=version)
        administrator = secrets.Secret(
            self,
            "Administrator",
            encryption_key=key,
            generate_secret_string=secrets.SecretStringGenerator(
                secret_string_template=f'{{"username": "{ADMINISTRATOR}"}}',
                generate_string_key="password",
                exclude_characters=_EXCLUDED_CHARACTERS,
            ),
        )
        self.secrets: dict[str, secrets.Secret] = {
            role: secrets.Secret(
                self,
                f"Password-{role}",
                encryption_key=key,
                generate_secret_string=secrets.SecretStringGenerator(exclude_characters=_EXCLUDED_CHARACTERS, password_length=40),
            )
            for role in ROLES
        }
        self.secrets[ADMINISTRATOR] = administrator
        self.instance = rds.DatabaseInstance(
            self,
            "Server",
            instance_identifier=IDENTIFIER,
            engine=engine,
            credentials=rds.Credentials.from_secret(administrator, ADMINISTRATOR),
            vpc=network.vpc,
            vpc_subnets=network.tasks,
            security_groups=[network.groups["Database"]],
            instance_type=ec2.InstanceType(config.database.instance),
            allocated_storage=config.database.storage_gb,
            max_allocated_storage=config.database.storage_gb * 4,
            storage_type=rds.StorageType.GP3,
            storage_encrypted=True,
            storage_encryption_key=key,
            multi_az=config.database.standby,
            port=POSTGRES,
            parameter_group=rds.ParameterGroup(
                self, "Parameters", engine=engine, parameters={"rds.force_ssl": "1", "log_min_duration_statement": "1000"}
            ),
            backup_retention=Duration.days(14),
            copy_tags_to_snapshot=True,
            auto_minor_version_upgrade=True,
            deletion_protection=True,
            removal_policy=RemovalPolicy.SNAPSHOT,
            iam_authentication=True,
            enable_performance_insights=True,
            performance_insight_encryption_key=key,
            cloudwatch_logs_exports=list(_LOGS),
            publicly_accessible=False,
        )
        # Created before the server under the names that RDS uses: log groups that RDS creates never expire.
        self.instance.node.add_dependency(*(self._log(name, key) for name in _LOGS))

    def _log(self, name: str, key: kms.IKey) -> logs.LogGroup:
        return logs.LogGroup(
            self,
            f"Log-{name}",
            log_group_name=f"/aws/rds/instance/{IDENTIFIER}/{name}",
            retention=logs.RetentionDays.THREE_MONTHS,
            encryption_key=key,
            removal_policy=RemovalPolicy.DESTROY,
        )

    def password(self, scope: Construct, role: str, field: str | None = None) -> ecs.Secret:
        """The password of a role for a container.

        The secret is imported by its ARN: otherwise the CDK adds the reader to the key's policy, a circular dependency.
        """
        secret = secrets.Secret.from_secret_complete_arn(scope, f"Imported-{role}", self.secrets[role].secret_arn)
        return ecs.Secret.from_secrets_manager(secret, field)

    @property
    def environment(self) -> dict[str, str]:
        """libpq's variables for the connection, without a password."""
        endpoint = self.instance.db_instance_endpoint_address
        return {"PGHOST": endpoint, "PGPORT": str(POSTGRES), "PGSSLMODE": "require"}
