"""The alarms of an installation, and the topic that sends them to the operators. Each description says what to do.

Belongs here: infrastructure alarms. Notifications about rejected files and failed frames are sent by the pipeline itself
(`ls4_assets.notifications`), through the same topic.
"""

from collections.abc import Iterable, Mapping

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_events as rules
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from deploy.aws.base import BaseStack
from deploy.aws.cluster import NAME, RUN_FAMILY
from deploy.aws.events import BucketEvents
from deploy.aws.maps import MapService
from deploy.aws.services import TOPIC
from mapserver import sync

_OVER = cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
_UNDER = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
# One bad tif also fails its run, and the pipeline reports it; this many failures within an hour have another cause.
_FAILED_RUNS_PER_HOUR = 10
# The terms of log lines that report a failed run. Dagster's daemon reports a run that could not be launched, did not start in
# time, was lost or exceeded its maximum runtime.
_FAILED_RUN_TERMS = {
    "run": ("RUN_FAILURE",),
    "warm": ("RUN_FAILURE",),
    "daemon": ("Caught an error dequeuing run", "seconds to start", "as failed", "maximum runtime"),
}
# Each sidecar logs a heartbeat every minute: 15 per task and period, of which at least 13 must arrive on average. With up to
# seven tasks one silent sidecar raises the alarm; with more tasks, two do.
_HEARTBEAT_PERIOD_MINUTES, _MIN_HEARTBEATS = 15, 13


class Alarms(Construct):
    """All alarms. `topic` gets every alarm and every failure event of ECS."""

    def __init__(
        self, scope: Construct, base: BaseStack, events: BucketEvents, maps: MapService, services: Iterable[str]
    ) -> None:
        super().__init__(scope, "Alarms")
        self.base = base
        self.topic = self._topic()
        self._queues(events)
        self._map_server(maps)
        self._database()
        for name in services:
            self._service_down(name)
        self._runs()
        if not base.config.mount:
            self._sidecars(maps.service)
        self._task_events()

    def _topic(self) -> sns.Topic:
        config = self.base.config
        topic = sns.Topic(self, "Topic", topic_name=TOPIC, master_key=self.base.key, enforce_ssl=True)
        for address in config.alarm_emails:
            topic.add_subscription(subscriptions.EmailSubscription(address))
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                sid="Alarms",
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": config.account}},
            )
        )
        return topic

    def _queues(self, events: BucketEvents) -> None:
        unprocessed = events.dead_letter_queue.metric_approximate_number_of_messages_visible(statistic="Maximum")
        advice = "Some bucket events could not be processed: read the messages in the queue ls4-georef-dead, then redrive them."
        self._alarm("EventsUnprocessed", unprocessed, 1, advice)
        age = events.queue.metric_approximate_age_of_oldest_message(statistic="Maximum")
        advice = "No sensor receives bucket events: check in the Dagster UI that the daemon and the code server run."
        self._alarm("EventsNotReceived", age, 1800, advice)

    def _map_server(self, maps: MapService) -> None:
        healthy = maps.targets.metrics.healthy_host_count(statistic="Minimum")
        advice = "No map server is healthy: read the log group /ls4/maps, and check that the database is available."
        # Without any task this metric has no data.
        self._alarm("MapServersUnhealthy", healthy, 1, advice, _UNDER, missing_is_bad=True)
        errors = maps.targets.metrics.http_code_target(elb.HttpCodeTarget.TARGET_5XX_COUNT, statistic="Sum")
        self._alarm("MapErrors", errors, 100, "Map requests fail with server errors: read the log group /ls4/maps.")

    def _database(self) -> None:
        server = self.base.database.instance
        free_bytes = server.metric_free_storage_space(statistic="Minimum")
        advice = "The database has less than 5 GB of free storage: raise storage_gb in [database]."
        self._alarm("DatabaseStorageLow", free_bytes, 5 << 30, advice, _UNDER)
        cpu_percent = server.metric_cpu_utilization(statistic="Average")
        advice = "The database CPU is busy: use a larger instance, or run fewer runs at a time."
        self._alarm("DatabaseCpuHigh", cpu_percent, 90, advice, minutes=15)

    def _runs(self) -> None:
        failed, *_ = [self._line_count(log, "RunsFailed", *terms) for log, terms in _FAILED_RUN_TERMS.items()]
        advice = "Many runs failed within an hour: check the failed runs in the Dagster UI."
        self._alarm("RunsFailing", failed, _FAILED_RUNS_PER_HOUR, advice, minutes=60)

    def _sidecars(self, service: str) -> None:
        failed = self._event_count("maps", "SyncFailed", sync.FAILED_EVENT)
        advice = "The sidecar cannot copy mapfiles to the map server: read the log group /ls4/maps."
        self._alarm("MapfileSyncFailed", failed, 1, advice)
        # A crashed or hanging sidecar logs nothing, and ECS checks only the health of essential containers.
        heartbeats = self._event_count("maps", "SyncHeartbeats", sync.HEARTBEAT_EVENT)
        metrics = {"heartbeats": heartbeats, "tasks": _running_tasks(service, "Average")}
        per_task = cloudwatch.MathExpression(expression="heartbeats / tasks", using_metrics=metrics)
        advice = "A mapfile sidecar is silent: find it in the log group /ls4/maps and stop its task; ECS replaces the task."
        self._alarm(
            "MapfileSyncSilent",
            per_task,
            _MIN_HEARTBEATS,
            advice,
            _UNDER,
            minutes=_HEARTBEAT_PERIOD_MINUTES,
            missing_is_bad=True,
        )

    def _service_down(self, service: str) -> None:
        running = _running_tasks(service, "Maximum")
        advice = f"No task of the service {service} runs: read the log group /ls4/{service}."
        self._alarm(f"ServiceDown-{service}", running, 1, advice, _UNDER, missing_is_bad=True)

    def _line_count(self, log: str, metric_name: str, *terms: str) -> cloudwatch.Metric:
        """The number of log lines with any of the terms."""
        return self._count(log, metric_name, logs.FilterPattern.any_term(*terms))

    def _event_count(self, log: str, metric_name: str, event: str) -> cloudwatch.Metric:
        """The number of JSON log lines of an event (`ls4_assets.logs`)."""
        return self._count(log, metric_name, logs.FilterPattern.string_value("$.event", "=", event))

    def _count(self, log: str, metric_name: str, pattern: logs.IFilterPattern) -> cloudwatch.Metric:
        """The number of log lines that match; filters of several log groups may feed one metric."""
        metric_filter = logs.MetricFilter(
            self,
            f"Lines-{metric_name}-{log}",
            log_group=self.base.cluster.logs[log],
            filter_pattern=pattern,
            metric_namespace="ls4",
            metric_name=metric_name,
        )
        return metric_filter.metric(statistic="Sum")

    def _alarm(
        self,
        name: str,
        metric: cloudwatch.Metric | cloudwatch.MathExpression,
        threshold: float,
        advice: str,
        comparison: cloudwatch.ComparisonOperator = _OVER,
        *,
        minutes: int = 5,
        missing_is_bad: bool = False,
    ) -> None:
        missing = cloudwatch.TreatMissingData
        alarm = cloudwatch.Alarm(
            self,
            name,
            alarm_name=f"ls4-{name}",
            alarm_description=advice,
            metric=metric.with_(period=Duration.minutes(minutes)),
            threshold=threshold,
            comparison_operator=comparison,
            evaluation_periods=1,
            treat_missing_data=missing.BREACHING if missing_is_bad else missing.NOT_BREACHING,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        alarm.add_ok_action(actions.SnsAction(self.topic))

    def _task_events(self) -> None:
        """Failures for which there is no metric: ECS sends one event when they happen."""
        cluster: dict[str, object] = {"clusterArn": [self.base.cluster.cluster.cluster_arn]}
        stopped = cluster | {"lastStatus": ["STOPPED"]}
        self._forward("TaskFailedToStart", "ECS Task State Change", stopped | {"stopCode": ["TaskFailedToStart"]})
        # A killed run (137: out of memory) did not log its failure.
        killed = {"group": [f"family:{RUN_FAMILY}"], "containers": {"exitCode": [{"anything-but": 0}]}}
        self._forward("RunKilled", "ECS Task State Change", stopped | killed)
        impaired = ["SERVICE_TASK_START_IMPAIRED", "SERVICE_TASK_PLACEMENT_FAILURE"]
        self._forward("ServiceImpaired", "ECS Service Action", cluster | {"eventName": impaired})
        # This event names its cluster only in the ARN of the service.
        config = self.base.config
        service = rules.Match.prefix(f"arn:aws:ecs:{config.region}:{config.account}:service/{NAME}/")
        failed = {"eventName": ["SERVICE_DEPLOYMENT_FAILED"]}
        self._forward("DeploymentFailed", "ECS Deployment State Change", failed, service)

    def _forward(self, name: str, detail_type: str, detail: Mapping[str, object], resources: list[str] | None = None) -> None:
        pattern = rules.EventPattern(source=["aws.ecs"], detail_type=[detail_type], detail=detail, resources=resources)
        rules.Rule(self, name, event_pattern=pattern, targets=[targets.SnsTopic(self.topic)])


def _running_tasks(service: str, statistic: str) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace="ECS/ContainerInsights",
        metric_name="RunningTaskCount",
        dimensions_map={"ClusterName": NAME, "ServiceName": service},
        statistic=statistic,
    )
