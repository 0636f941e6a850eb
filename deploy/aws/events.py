"""Bucket events for the sensor: an EventBridge rule selects drops; a queue, with a dead-letter queue, delivers them."""

from aws_cdk import Duration
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from deploy.aws.config import Config
from deploy.aws.keys import NEVER_DROPS

QUEUE = "ls4-georef"


class BucketEvents(Construct):
    """`queue` is read by the sensor `ingest_events`, `dead_letter_queue` by an operator."""

    def __init__(self, scope: Construct, config: Config) -> None:
        super().__init__(scope, "Events")
        self.dead_letter_queue = sqs.Queue(
            self,
            "Dead",
            queue_name=f"{QUEUE}-dead",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=Duration.days(14),
        )
        self.queue = sqs.Queue(
            self,
            "Queue",
            queue_name=QUEUE,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            visibility_timeout=Duration.minutes(2),
            retention_period=Duration.days(14),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letter_queue, max_receive_count=5),
        )
        events.Rule(
            self,
            "Drops",
            description="Objects that staff drop, replace or delete in georef/",
            event_pattern=events.EventPattern(
                source=["aws.s3"],
                detail_type=["Object Created", "Object Deleted"],
                detail={
                    "bucket": {"name": [config.bucket]},
                    "object": {"key": [{"anything-but": {"wildcard": list(NEVER_DROPS)}}]},
                },
            ),
            targets=[
                targets.SqsQueue(
                    self.queue,
                    dead_letter_queue=self.dead_letter_queue,
                    max_event_age=Duration.hours(24),
                    retry_attempts=185,
                )
            ],
        )
