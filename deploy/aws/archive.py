"""The bucket of the archive, the bucket of logs, and the CloudFront distribution for downloads of the public part."""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_cloudfront as cloudfront
from aws_cdk import aws_cloudfront_origins as origins
from aws_cdk import aws_iam as iam
from aws_cdk import aws_route53 as dns
from aws_cdk import aws_route53_targets as dns_targets
from aws_cdk import aws_s3 as s3
from constructs import Construct

from deploy.aws.config import Config
from deploy.aws.keys import PUBLIC_KEYS
from deploy.aws.network import hosted_zone
from resources.s3_storage import INTERMEDIATE_TAG

# Retained, except after a failed first deployment: the leftovers would block the next one.
KEPT = RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
INTERMEDIATE_DAYS, NONCURRENT_DAYS, LOG_DAYS = 30, 90, 90


class ArchiveBuckets(Construct):
    """`bucket` has the photographs; `logs` has the access logs and, under dagster/, the output of runs."""

    def __init__(self, scope: Construct, config: Config) -> None:
        super().__init__(scope, "Archive")
        self.logs = s3.Bucket(
            self,
            "Logs",
            bucket_name=f"{config.bucket}-logs",
            encryption=s3.BucketEncryption.S3_MANAGED,  # load balancers support no other for their logs
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            # Only CloudFront's legacy logging needs ACLs; this bucket gets the logs of S3 and of the load balancers.
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            versioned=True,
            removal_policy=KEPT,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="expire",
                    expiration=Duration.days(LOG_DAYS),
                    noncurrent_version_expiration=Duration.days(1),
                    abort_incomplete_multipart_upload_after=Duration.days(1),
                )
            ],
        )
        self.bucket = s3.Bucket(
            self,
            "Photographs",
            bucket_name=config.bucket,
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            versioned=True,
            removal_policy=KEPT,
            server_access_logs_bucket=self.logs,
            server_access_logs_prefix="archive-access/",
            lifecycle_rules=_lifecycle(),
        )
        # Set on the CloudFormation resource: the construct's own option adds a Lambda function with rights to every bucket.
        resource = self.bucket.node.default_child
        assert isinstance(resource, s3.CfnBucket)
        resource.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
        )


def _lifecycle() -> list[s3.LifecycleRule]:
    tag, value = INTERMEDIATE_TAG.split("=")
    return [
        # Lifecycle filters match a prefix or a tag, and deflate/ is deep in the key: the pipeline tags what it can regenerate.
        s3.LifecycleRule(
            id="intermediates",
            tag_filters={tag: value},
            expiration=Duration.days(INTERMEDIATE_DAYS),
            # Otherwise expired objects would be stored, and billed, as long as replaced ones.
            noncurrent_version_expiration=Duration.days(1),
        ),
        s3.LifecycleRule(
            id="replaced",
            noncurrent_version_expiration=Duration.days(NONCURRENT_DAYS),
            expired_object_delete_marker=True,
            # Unfinished uploads of killed workers are invisible but billed.
            abort_incomplete_multipart_upload_after=Duration.days(1),
        ),
    ]


class DownloadDistribution(Construct):
    """CloudFront for the public keys. The bucket's policy rejects all other keys, even in requests of CloudFront."""

    def __init__(self, scope: Construct, config: Config, archive: ArchiveBuckets) -> None:
        super().__init__(scope, "Downloads")
        bucket = archive.bucket
        # Imported, so that the origin does not change the bucket's policy: its statement would open the whole bucket.
        imported = s3.Bucket.from_bucket_attributes(
            self,
            "Origin",
            bucket_name=config.bucket,
            region=config.region,
            bucket_regional_domain_name=bucket.bucket_regional_domain_name,
        )
        host, certificate_arn = config.downloads.host, config.downloads.certificate_arn
        certificate = acm.Certificate.from_certificate_arn(self, "Certificate", certificate_arn) if certificate_arn else None
        self.distribution = cloudfront.Distribution(
            self,
            "Distribution",
            comment="ls4: downloads",
            default_behavior=cloudfront.BehaviorOptions(
                origin=origins.S3BucketOrigin.with_origin_access_control(imported),
                viewer_protocol_policy=cloudfront.ViewerProtocolPolicy.REDIRECT_TO_HTTPS,
                allowed_methods=cloudfront.AllowedMethods.ALLOW_GET_HEAD_OPTIONS,
                cache_policy=self._cache_policy(),
                response_headers_policy=self._response_headers(),
                compress=False,  # tifs and zips are already compressed, and range requests need the original bytes
            ),
            domain_names=[host] if host else None,
            certificate=certificate,
            minimum_protocol_version=cloudfront.SecurityPolicyProtocol.TLS_V1_2_2021,
            http_version=cloudfront.HttpVersion.HTTP2_AND_3,
            price_class=cloudfront.PriceClass.PRICE_CLASS_100,
        )
        bucket.add_to_resource_policy(
            iam.PolicyStatement(
                sid="Downloads",
                principals=[iam.ServicePrincipal("cloudfront.amazonaws.com")],
                actions=["s3:GetObject"],
                resources=[bucket.arn_for_objects(keys) for keys in PUBLIC_KEYS],
                conditions={"StringEquals": {"AWS:SourceArn": self.distribution.distribution_arn}},
            )
        )
        self.url = f"https://{host or self.distribution.distribution_domain_name}"
        if host and f".{host}".endswith(f".{config.dns.zone}"):
            self._add_dns_records(host, hosted_zone(self, config))

    def _add_dns_records(self, host: str, zone: dns.IHostedZone) -> None:
        """Records for a host in our zone; the owner of another zone creates an alias or CNAME of the distribution."""
        target = dns.RecordTarget.from_alias(dns_targets.CloudFrontTarget(self.distribution))
        dns.ARecord(self, "Address", zone=zone, record_name=f"{host}.", target=target)
        dns.AaaaRecord(self, "AddressV6", zone=zone, record_name=f"{host}.", target=target)

    def _cache_policy(self) -> cloudfront.CachePolicy:
        """Caching for one minute, as on the web front end: a replaced frame keeps its public key."""
        return cloudfront.CachePolicy(
            self,
            "Caching",
            comment="ls4: public keys may be replaced",
            min_ttl=Duration.seconds(0),
            default_ttl=Duration.seconds(60),
            max_ttl=Duration.days(1),
        )

    def _response_headers(self) -> cloudfront.ResponseHeadersPolicy:
        """CORS headers: other sites read COGs with range requests."""
        return cloudfront.ResponseHeadersPolicy(
            self,
            "Headers",
            cors_behavior=cloudfront.ResponseHeadersCorsBehavior(
                access_control_allow_credentials=False,
                access_control_allow_headers=["Range"],
                access_control_allow_methods=["GET", "HEAD", "OPTIONS"],
                access_control_allow_origins=["*"],
                access_control_expose_headers=["Accept-Ranges", "Content-Length", "Content-Range", "ETag"],
                origin_override=True,
            ),
            security_headers_behavior=cloudfront.ResponseSecurityHeadersBehavior(
                content_type_options=cloudfront.ResponseHeadersContentTypeOptions(override=True),
                strict_transport_security=cloudfront.ResponseHeadersStrictTransportSecurity(
                    access_control_max_age=Duration.days(365), override=True
                ),
            ),
        )
