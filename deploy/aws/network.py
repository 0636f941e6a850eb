"""The VPC, its endpoints for AWS services (tasks have no route to the internet), and the permitted connections."""

from collections.abc import Sequence

from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_route53 as dns
from constructs import Construct

from deploy.aws.config import Config

POSTGRES, CODE, DAGSTER_UI, MAPS, HTTPS = 5432, 4000, 3000, 8080, 443

_INTERFACES = {
    "Ecr": ec2.InterfaceVpcEndpointAwsService.ECR,
    "EcrDocker": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
    "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
    "Secrets": ec2.InterfaceVpcEndpointAwsService.SECRETS_MANAGER,
    "Ecs": ec2.InterfaceVpcEndpointAwsService.ECS,
    "Sqs": ec2.InterfaceVpcEndpointAwsService.SQS,
    "Sns": ec2.InterfaceVpcEndpointAwsService.SNS,
}
# For the ECS agents of EC2 instances; on Fargate AWS runs the agents.
_AGENT_INTERFACES = {
    "EcsAgent": ec2.InterfaceVpcEndpointAwsService.ECS_AGENT,
    "EcsTelemetry": ec2.InterfaceVpcEndpointAwsService.ECS_TELEMETRY,
}


class Network(Construct):
    """`groups`: one security group for each kind of task, by name."""

    def __init__(self, scope: Construct, config: Config, flow_logs: logs.ILogGroup) -> None:
        super().__init__(scope, "Network")
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(str(config.network.cidr)),
            # Explicit: a lookup without access to the account would write zones that do not exist into the template.
            availability_zones=list(config.zones),
            nat_gateways=0,
            restrict_default_security_group=False,  # it would need a custom resource with a Lambda function
            subnet_configuration=[
                ec2.SubnetConfiguration(
                    name="Public", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=24, map_public_ip_on_launch=False
                ),
                ec2.SubnetConfiguration(name="Tasks", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=20),
            ],
        )
        self.tasks = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)
        self.public = ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC)
        self.vpc.add_flow_log("FlowLog", destination=ec2.FlowLogDestination.to_cloud_watch_logs(flow_logs))
        self.groups = self._groups(config)
        self._endpoints(config)

    def _groups(self, config: Config) -> dict[str, ec2.SecurityGroup]:
        """Every permitted connection, except those from a load balancer to its targets, which the CDK adds."""
        descriptions = {
            "PublicBalancer": "The load balancer of the maps",
            "DagsterBalancer": "The internal load balancer of the Dagster UI",
            "Maps": "MapServer tasks",
            "Webserver": "Webserver tasks",
            "Daemon": "The Dagster daemon",
            "Code": "The code server",
            "Runs": "Run tasks and one-off tasks",
            "Database": "PostgreSQL",
            "Endpoints": "Endpoints of AWS services",
        }
        groups = {
            name: ec2.SecurityGroup(self, name, vpc=self.vpc, description=description, allow_all_outbound=False)
            for name, description in descriptions.items()
        }
        for port in (HTTPS, 80):
            groups["PublicBalancer"].add_ingress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(port), "maps are public")
        for clients in config.network.dagster_clients or (config.network.cidr,):
            groups["DagsterBalancer"].add_ingress_rule(ec2.Peer.ipv4(str(clients)), ec2.Port.tcp(HTTPS), "operators")
        tasks = ("Maps", "Webserver", "Daemon", "Code", "Runs")
        for name in tasks:
            _connect(groups[name], groups["Database"], POSTGRES)
            _connect(groups[name], groups["Endpoints"], HTTPS)
            # For S3 through the gateway endpoint: these subnets have no route to any other address outside the VPC.
            groups[name].add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(HTTPS), "S3 through its gateway endpoint")
        for name in ("Webserver", "Daemon"):
            _connect(groups[name], groups["Code"], CODE)
        # Runs check the maps that they have published.
        _connect(groups["Runs"], groups["Maps"], MAPS)
        return groups

    def _endpoints(self, config: Config) -> None:
        gateway = self.vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
        for statement in s3_endpoint_statements(config):
            gateway.add_to_policy(statement)
        subnets = ec2.SubnetSelection(subnets=self.vpc.isolated_subnets[: config.network.endpoint_zones])
        services = _INTERFACES | (_AGENT_INTERFACES if config.mount else {})
        for name, service in services.items():
            self.vpc.add_interface_endpoint(
                name, service=service, subnets=subnets, open=False, security_groups=[self.groups["Endpoints"]]
            )


def _connect(source: ec2.SecurityGroup, target: ec2.SecurityGroup, port: int) -> None:
    source.connections.allow_to(target, ec2.Port.tcp(port), f"{source.node.id} to {target.node.id}")


def hosted_zone(scope: Construct, config: Config) -> dns.IHostedZone:
    return dns.HostedZone.from_hosted_zone_attributes(scope, "Zone", hosted_zone_id=config.dns.zone_id, zone_name=config.dns.zone)


def s3_endpoint_statements(config: Config) -> Sequence[iam.PolicyStatement]:
    """The policy of the S3 endpoint: our own buckets, and the bucket of ECR's image layers, without which no task starts."""
    ours = [f"arn:aws:s3:::{name}" for name in (config.bucket, f"{config.bucket}-logs")]
    return [
        iam.PolicyStatement(
            sid="OurBuckets",
            principals=[iam.StarPrincipal()],
            actions=["s3:*"],
            resources=[*ours, *(f"{arn}/*" for arn in ours)],
            conditions={"StringEquals": {"aws:PrincipalAccount": config.account}},
        ),
        iam.PolicyStatement(
            sid="ImageLayers",
            principals=[iam.StarPrincipal()],
            actions=["s3:GetObject"],
            resources=[f"arn:aws:s3:::prod-{config.region}-starport-layer-bucket/*"],
        ),
    ]
