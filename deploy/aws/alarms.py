"""What an operator is told of, by a topic with their addresses: each alarm says in its description what to do."""

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

from deploy.aws.base import Base
from deploy.aws.cluster import NAME, RUN_FAMILY
from deploy.aws.events import Events
from deploy.aws.maps import Maps
from deploy.aws.services import TOPIC
from mapserver import sync

_OVER = cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD
_UNDER = cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
# One bad tif fails its run too, and is told of elsewhere; so many within an hour are another matter.
_FAILED_RUNS = 10
# Of a run whose start was rejected, that did not start in time, was lost or took too long, the daemon tells in words of its own.
_FAILED = {
    "run": ("RUN_FAILURE",),
    "daemon": ("Caught an error dequeuing run", "seconds to start", "as failed", "maximum runtime"),
}
# Each sidecar tells once a minute that it works: of fifteen a task, so many at least. With up to seven tasks one that is silent
# shows; with more, it takes two.
_QUARTER, _BEATS = 15, 13


class Alarms(Construct):
    """`topic` gets everything."""

    def __init__(self, scope: Construct, base: Base, events: Events, maps: Maps, services: Iterable[str]) -> None:
        super().__init__(scope, "Alarms")
        self.base = base
        self.topic = self._topic()
        self._queues(events)
        self._map_front(maps)
        self._database()
        for name in services:
            self._absent(name)
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

    def _queues(self, events: Events) -> None:
        dead = events.dead.metric_approximate_number_of_messages_visible(statistic="Maximum")
        self._alarm(
            "DeadEvents", dead, 1, "Events of the bucket could not be taken: read the queue ls4-georef-dead, then redrive it."
        )
        age = events.queue.metric_approximate_age_of_oldest_message(statistic="Maximum")
        self._alarm("OldEvents", age, 1800, "No sensor takes events: see in the Dagster UI whether daemon and code server run.")

    def _map_front(self, maps: Maps) -> None:
        healthy = maps.targets.metrics.healthy_host_count(statistic="Minimum")
        advice = "No map server is healthy: read /ls4/maps, and see whether the database answers."
        # Without any task there is no number of healthy ones.
        self._alarm("MapFront", healthy, 1, advice, _UNDER, missing_is_bad=True)
        faults = maps.targets.metrics.http_code_target(elb.HttpCodeTarget.TARGET_5XX_COUNT, statistic="Sum")
        self._alarm("MapFaults", faults, 100, "Maps are answered with errors: read /ls4/maps.")

    def _database(self) -> None:
        server = self.base.database.instance
        free = server.metric_free_storage_space(statistic="Minimum")
        self._alarm("DatabaseRoom", free, 5 << 30, "The database has less than 5 GB left: raise storage_gb.", _UNDER)
        busy = server.metric_cpu_utilization(statistic="Average")
        self._alarm(
            "DatabaseBusy", busy, 90, "The database is busy: take a larger instance, or fewer runs at a time.", minutes=15
        )

    def _runs(self) -> None:
        failed, *_ = [self._lines(log, "RunsFailed", *lines) for log, lines in _FAILED.items()]
        self._alarm("RunsFail", failed, _FAILED_RUNS, "Look at the failed runs in the Dagster UI.", minutes=60)

    def _sidecars(self, service: str) -> None:
        failed = self._lines("maps", "SyncFailed", sync.FAULT)
        self._alarm("MapsStale", failed, 1, "Mapfiles do not reach the map server: read /ls4/maps.")
        # Whoever has died or hangs says nothing. ECS asks no container for its health but those without which the task ends.
        beats = self._lines("maps", "SyncBeats", sync.BEAT)
        metrics = {"beats": beats, "tasks": _running(service, "Average")}
        each = cloudwatch.MathExpression(expression="beats / tasks", using_metrics=metrics)
        advice = "A sidecar that brings mapfiles is silent: see in /ls4/maps which, and stop its task, which is replaced."
        self._alarm("SidecarSilent", each, _BEATS, advice, _UNDER, minutes=_QUARTER, missing_is_bad=True)

    def _absent(self, service: str) -> None:
        running = _running(service, "Maximum")
        self._alarm(
            f"Absent-{service}", running, 1, f"No task of {service} runs: read /ls4/{service}.", _UNDER, missing_is_bad=True
        )

    def _lines(self, log: str, name: str, *anyhow: str) -> cloudwatch.Metric:
        """How many lines hold any of these; filters of several logs may count under one name."""
        found = logs.MetricFilter(
            self,
            f"Lines-{name}-{log}",
            log_group=self.base.cluster.logs[log],
            filter_pattern=logs.FilterPattern.any_term(*anyhow),
            metric_namespace="ls4",
            metric_name=name,
        )
        return found.metric(statistic="Sum")

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
        """What no metric counts: ECS says it once, when it happens."""
        ours = {"clusterArn": [self.base.cluster.cluster.cluster_arn]}
        stopped = {**ours, "lastStatus": ["STOPPED"]}
        self._notice("TaskNotStarted", "ECS Task State Change", stopped | {"stopCode": ["TaskFailedToStart"]})
        # A run that was killed (for want of memory: 137) wrote no last line.
        killed = {"group": [f"family:{RUN_FAMILY}"], "containers": {"exitCode": [{"anything-but": 0}]}}
        self._notice("RunKilled", "ECS Task State Change", stopped | killed)
        impaired = ["SERVICE_TASK_START_IMPAIRED", "SERVICE_TASK_PLACEMENT_FAILURE"]
        self._notice("ServiceImpaired", "ECS Service Action", ours | {"eventName": impaired})
        # An event of another kind, which names no cluster but in the service's ARN.
        config = self.base.config
        service = rules.Match.prefix(f"arn:aws:ecs:{config.region}:{config.account}:service/{NAME}/")
        failed = {"eventName": ["SERVICE_DEPLOYMENT_FAILED"]}
        self._notice("DeploymentFailed", "ECS Deployment State Change", failed, service)

    def _notice(self, name: str, kind: str, detail: Mapping[str, object], resources: list[str] | None = None) -> None:
        pattern = rules.EventPattern(source=["aws.ecs"], detail_type=[kind], detail=detail, resources=resources)
        rules.Rule(self, name, event_pattern=pattern, targets=[targets.SnsTopic(self.topic)])


def _running(service: str, statistic: str) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace="ECS/ContainerInsights",
        metric_name="RunningTaskCount",
        dimensions_map={"ClusterName": NAME, "ServiceName": service},
        statistic=statistic,
    )
