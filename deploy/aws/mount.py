"""EC2 instances that mount the bucket with s3fs, for maps without the sidecar; Fargate does not support FUSE.

The operator provides the machine image. It must contain the ECS agent and s3fs, because the subnets have no route to a package
server. docs/reference/map-services.md explains the mount options.
"""

from aws_cdk import Duration
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from constructs import Construct

from deploy.aws.config import Config
from deploy.aws.network import Network

MOUNTED = "/srv/ls4/archive"
FOLDERS = ("mapfiles", "derived", "staff")
_OPTIONS = "ro,allow_other,uid=1000,gid=1000,umask=0227,stat_cache_expire=2,iam_role=auto"


class MountedServers(Construct):
    """The instances of the map service; `provider` is their capacity provider."""

    def __init__(self, scope: Construct, config: Config, network: Network, cluster: ecs.Cluster) -> None:
        super().__init__(scope, "Servers")
        assert config.mount is not None
        role = iam.Role(
            self,
            "ServerRole",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            inline_policies={"allowed": _read_mounted(config)},
        )
        template = ec2.LaunchTemplate(
            self,
            "Template",
            machine_image=ec2.MachineImage.generic_linux({config.region: config.mount.ami}),
            instance_type=ec2.InstanceType(config.mount.instance),
            security_group=network.groups["Maps"],
            role=role,
            user_data=user_data(config.bucket, config.region),
            require_imdsv2=True,
            http_put_response_hop_limit=1,  # containers cannot get the instance's own role
            block_devices=[
                ec2.BlockDevice(device_name="/dev/xvda", volume=ec2.BlockDeviceVolume.ebs(30, encrypted=True)),
            ],
        )
        group = autoscaling.AutoScalingGroup(
            self,
            "Group",
            vpc=network.vpc,
            vpc_subnets=network.tasks,
            launch_template=template,
            min_capacity=config.maps.min_tasks,
            max_capacity=config.maps.max_tasks,
            new_instances_protected_from_scale_in=True,
            health_checks=autoscaling.HealthChecks.ec2(grace_period=Duration.minutes(3)),
        )
        self.provider = ecs.AsgCapacityProvider(self, "Provider", auto_scaling_group=group)
        # Adds the agent's rights to the role, and its cluster to the end of the user data: when a mount fails, no task starts.
        cluster.add_asg_capacity_provider(self.provider)


def user_data(bucket: str, region: str) -> ec2.UserData:
    """The script that mounts the folders that the map server reads; an unmounted folder is empty and not writable."""
    data = ec2.UserData.for_linux()
    lines = ["echo user_allow_other >> /etc/fuse.conf"]
    for folder in FOLDERS:
        lines += [
            f"install -d -o root -g root -m 0555 {MOUNTED}/{folder}",
            f"s3fs {bucket}:/{folder} {MOUNTED}/{folder} -o {_OPTIONS},endpoint={region},url=https://s3.{region}.amazonaws.com",
            f"mountpoint {MOUNTED}/{folder}",
        ]
    data.add_commands("set -euo pipefail", *lines)
    return data


def _read_mounted(config: Config) -> iam.PolicyDocument:
    """The policy that allows reading the mounted folders."""
    bucket = f"arn:aws:s3:::{config.bucket}"
    return iam.PolicyDocument(
        statements=[
            iam.PolicyStatement(sid="ListMounted", actions=["s3:ListBucket"], resources=[bucket]),
            iam.PolicyStatement(
                sid="ReadMounted", actions=["s3:GetObject"], resources=[f"{bucket}/{folder}/*" for folder in FOLDERS]
            ),
        ]
    )
