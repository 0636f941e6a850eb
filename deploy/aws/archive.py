"""The bucket of the archive, the bucket of logs, and CloudFront, by which the public part is downloaded."""

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
from deploy.aws.network import zone_of
from resources.s3_storage import INTERMEDIATE_TAG

# What everybody may read. In a policy `*` crosses `/`: none of these may match below georef/ or mapfiles/.
PUBLIC_KEYS = ("bw/*/scanned/*", "nc/*/scanned/*", "bw/*/cog/*", "nc/*/cog/*", "derived/*", "geojson/*")
# But for a first deployment that fails: what it leaves would be in the way of the next one.
KEPT = RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE
INTERMEDIATE_DAYS, NONCURRENT_DAYS, LOG_DAYS = 30, 90, 90


class Archive(Construct):
    """`bucket` holds the photographs; `logs` the access logs and, under dagster/, the output of runs."""

    def __init__(self, scope: Construct, config: Config) -> None:
        super().__init__(scope, "Archive")
        self.logs = s3.Bucket(
            self,
            "Logs",
            bucket_name=f"{config.bucket}-logs",
            encryption=s3.BucketEncryption.S3_MANAGED,  # load balancers write to no other
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            # CloudFront's older way of logging writes by ACL; this bucket gets S3's and the balancers' logs only.
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
        # Said on the resource itself: the construct's own option brings a function that may write any bucket's notifications.
        resource = self.bucket.node.default_child
        assert isinstance(resource, s3.CfnBucket)
        resource.notification_configuration = s3.CfnBucket.NotificationConfigurationProperty(
            event_bridge_configuration=s3.CfnBucket.EventBridgeConfigurationProperty(event_bridge_enabled=True)
        )


def _lifecycle() -> list[s3.LifecycleRule]:
    tag, value = INTERMEDIATE_TAG.split("=")
    return [
        # Filters know a prefix or a tag, and deflate/ lies deep in the key: the pipeline tags what it can make again.
        s3.LifecycleRule(
            id="intermediates",
            tag_filters={tag: value},
            expiration=Duration.days(INTERMEDIATE_DAYS),
            # What has expired would be kept, and paid for, as long as what was replaced.
            noncurrent_version_expiration=Duration.days(1),
        ),
        s3.LifecycleRule(
            id="replaced",
            noncurrent_version_expiration=Duration.days(NONCURRENT_DAYS),
            expired_object_delete_marker=True,
            # Those of killed workers are invisible, and are paid for.
            abort_incomplete_multipart_upload_after=Duration.days(1),
        ),
    ]


class Downloads(Construct):
    """CloudFront over the public keys. Everything else is rejected by the bucket's policy, whatever is asked of CloudFront."""

    def __init__(self, scope: Construct, config: Config, archive: Archive) -> None:
        super().__init__(scope, "Downloads")
        bucket = archive.bucket
        # As a bucket of others, whose policy the origin leaves alone: its own statement would open the whole bucket.
        foreign = s3.Bucket.from_bucket_attributes(
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
                origin=origins.S3BucketOrigin.with_origin_access_control(foreign),
                viewer_protocol_policy=cloudfront.ViewerProtocolPolicy.REDIRECT_TO_HTTPS,
                allowed_methods=cloudfront.AllowedMethods.ALLOW_GET_HEAD_OPTIONS,
                cache_policy=self._caching(),
                response_headers_policy=self._headers(),
                compress=False,  # tifs and zips are compressed, and ranges need the bytes as they are
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
            self._address(host, zone_of(self, config))

    def _address(self, host: str, zone: dns.IHostedZone) -> None:
        """The host's name; in a zone that is not ours its owner makes it, as an alias or CNAME of the distribution."""
        target = dns.RecordTarget.from_alias(dns_targets.CloudFrontTarget(self.distribution))
        dns.ARecord(self, "Address", zone=zone, record_name=f"{host}.", target=target)
        dns.AaaaRecord(self, "AddressV6", zone=zone, record_name=f"{host}.", target=target)

    def _caching(self) -> cloudfront.CachePolicy:
        """A replaced frame keeps its public key: a minute, as the map front does it."""
        return cloudfront.CachePolicy(
            self,
            "Caching",
            comment="ls4: public keys may be replaced",
            min_ttl=Duration.seconds(0),
            default_ttl=Duration.seconds(60),
            max_ttl=Duration.days(1),
        )

    def _headers(self) -> cloudfront.ResponseHeadersPolicy:
        """COGs are read by pages of others, in ranges."""
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
