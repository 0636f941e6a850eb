"""Both stacks of an installation."""

import aws_cdk as cdk

from deploy.aws.base import Base
from deploy.aws.config import Config
from deploy.aws.platform import Platform

FLAGS = {
    "aws:cdk:enable-asset-metadata": False,
    # S3 delivers its access logs by the bucket's policy; by ACL it could not write to a bucket without any.
    "@aws-cdk/aws-s3:serverAccessLogsUseBucketPolicy": True,
    "@aws-cdk/aws-iam:minimizePolicies": True,
    "@aws-cdk/core:enablePartitionLiterals": True,
}


def build_app(config: Config, outdir: str | None = None) -> cdk.App:
    """`outdir`: where the templates go; the CDK's own choice when None."""
    # No path of this machine, no version of its Node: the same configuration gives the same bytes.
    app = cdk.App(outdir=outdir, analytics_reporting=False, tree_metadata=False, context=FLAGS)
    base = Base(app, config)
    Platform(app, base)
    # Two kinds of resources take no tags from a template.
    untagged = ["AWS::ElasticLoadBalancingV2::Listener", "AWS::ApplicationAutoScaling::ScalableTarget"]
    cdk.Tags.of(app).add("application", "ls4", exclude_resource_types=untagged)
    return app
