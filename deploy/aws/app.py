"""The CDK app with both stacks of an installation."""

import aws_cdk as cdk

from deploy.aws.base import BaseStack
from deploy.aws.config import Config
from deploy.aws.platform import PlatformStack

FLAGS = {
    "aws:cdk:enable-asset-metadata": False,
    # S3 delivers its access logs by the bucket's policy; our buckets have ACLs disabled.
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,
    "@aws-cdk/aws-iam:minimizePolicies": True,
    "@aws-cdk/core:enablePartitionLiterals": True,
}


def build_app(config: Config, outdir: str | None = None) -> cdk.App:
    """The app of one installation. `outdir`: the folder of the templates; None: the CDK's default."""
    # Without paths of this machine and its Node version, the same configuration gives the same bytes.
    app = cdk.App(outdir=outdir, analytics_reporting=False, tree_metadata=False, context=FLAGS)
    base = BaseStack(app, config)
    PlatformStack(app, base)
    # CloudFormation does not support tags on these two resource types.
    untagged = ["AWS::ElasticLoadBalancingV2::Listener", "AWS::ApplicationAutoScaling::ScalableTarget"]
    cdk.Tags.of(app).add("application", "ls4", exclude_resource_types=untagged)
    return app
