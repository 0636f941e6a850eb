"""What the platform of the drop benchmark costs: memory, CPU when idle, CPU of a run, and rows of Dagster's event log."""

import os
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
from sqlalchemy import NullPool, create_engine, text

from benchmarks.drop_platform import LogLine, RunningDemo, wait_until
from ls4_assets.assets import keys
from ls4_assets.cli.backfill import launch

# All that Dagster stores of an asset event. Runs and ticks have tables of their own.
_EVENT_TABLES = ("event_logs", "asset_event_tags", "asset_keys", "asset_check_executions", "dynamic_partitions")
_MIB = 2**20


def memory_mb_by_service(demo: RunningDemo) -> dict[str, float]:
    """The proportional set size of each service with its child processes, in MiB; shared pages are divided between sharers."""
    by_service: dict[str, float] = defaultdict(float)
    for service, process in _processes(demo):
        with suppress(psutil.NoSuchProcess):
            by_service[service] += process.memory_full_info().pss / _MIB
    return dict(by_service)


def idle_cpu_percent_by_service(demo: RunningDemo, seconds: float) -> dict[str, float]:
    """The CPU time of each service with its child processes while nothing happens, in percent of one core."""
    demo.wait_until_quiet()
    before, started = _cpu_seconds(demo), time.monotonic()
    time.sleep(seconds)
    after, elapsed = _cpu_seconds(demo), time.monotonic() - started
    return {service: 100 * (after[service] - before.get(service, 0.0)) / elapsed for service in after}


def measure_empty_run(demo: RunningDemo, collection_name: str) -> float:
    """The CPU seconds of a run that rewrites the exports of one frame: the least that a run of the platform can do."""
    demo.wait_until_quiet()
    started = time.time()
    launched = launch(demo.instance, demo.archive.settings, collection_name, "exports")

    def ended() -> list[LogLine]:
        runs = {run.run_id for run in demo.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": launched.id}))}
        return [line for line in demo.log_lines(started) if line["event"] == "run_process_ended" and line["run_id"] in runs]

    wait_until(lambda: bool(ended()), "A run that does nothing did not end", poll_seconds=0.5)
    return float(ended()[0]["cpu_seconds"])


def cpu_seconds_by_kind(demo: RunningDemo, since: float) -> dict[str, list[float]]:
    """The CPU seconds of the runs that the sensors requested since a time, by kind of run."""
    ended = {line["run_id"]: line["cpu_seconds"] for line in demo.log_lines(since) if line["event"] == "run_process_ended"}
    by_kind: dict[str, list[float]] = defaultdict(list)
    for run in demo.instance.get_runs(dg.RunsFilter(run_ids=list(ended))) if ended else []:
        by_kind[run.tags.get(keys.KIND_TAG, "other")].append(ended[run.run_id])
    return dict(by_kind)


def event_bytes_by_table() -> dict[str, int]:
    """The size on disk of Dagster's tables of events, with their indexes and TOAST."""
    engine = create_engine(os.environ["LS4_DAGSTER_DATABASE_URL"], poolclass=NullPool)
    with engine.connect() as connection:
        query = text("select pg_total_relation_size(to_regclass(:name))")
        return {name: int(connection.scalar(query, {"name": name}) or 0) for name in _EVENT_TABLES}


def _cpu_seconds(demo: RunningDemo) -> dict[str, float]:
    """CPU time by service. That of processes that ended is in the times of the parent that waited for them."""
    by_service: dict[str, float] = defaultdict(float)
    for service, process in _processes(demo):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            by_service[service] += times.user + times.system + times.children_user + times.children_system
    return by_service


def _processes(demo: RunningDemo) -> list[tuple[str, psutil.Process]]:
    """All processes of the demonstration, each with the name of its service."""
    found = [("ls4 demo", demo.process)]
    for service in demo.process.children():
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            # The supervisor names each service's log after it.
            name = Path(f"/proc/{service.pid}/fd/1").readlink().stem
            found += [(name, process) for process in (service, *service.children(recursive=True))]
    return found
