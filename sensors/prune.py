"""The job `prune_history` and its schedule: keep Dagster's database small. What is deleted is decided in `runtime.history`."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import dagster as dg

from ls4_assets import logs
from ls4_assets.runtime.history import HistoryPruner
from resources.archive import Archive

# After the reconciliation and before the daily check of the counts, when few people work.
NIGHTLY = "0 4 * * *"


def prune_schedule(definitions: Callable[[], dg.Definitions]) -> dg.ScheduleDefinition:
    """The schedule `prune_history`. Its time is UTC unless the Dagster instance is configured otherwise.

    `definitions` returns those that have this schedule: which events staleness needs depends on their assets.
    """

    @dg.op(name="prune_history_op")
    def prune(context: dg.OpExecutionContext, archive: Archive) -> None:
        if not (days := archive.settings.history_days):
            context.log.info("LS4_HISTORY_DAYS is 0: the history is kept.")
            return
        graph = definitions().resolve_asset_graph()
        children = {key: graph.get(key).child_keys for key in graph.get_all_asset_keys()}
        report = HistoryPruner(context.instance, datetime.now(UTC) - timedelta(days=days), children).run()
        logs.emit("history_pruned", **asdict(report))
        context.log.info(f"Deleted {report.events} events, {report.evaluations} evaluations and {report.runs} runs.")

    @dg.job(name="prune_history", description="Deletes runs and events that are older than LS4_HISTORY_DAYS and replaced.")
    def prune_history() -> None:
        prune()

    return dg.ScheduleDefinition(
        name="prune_history",
        job=prune_history,
        cron_schedule=NIGHTLY,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Deletes every night what Dagster's database no longer needs and LS4_HISTORY_DAYS does not protect.",
    )
