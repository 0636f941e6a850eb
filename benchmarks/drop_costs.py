"""What the platform of the drop benchmark costs: memory, CPU when idle, CPU of a run, and rows of Dagster's event log."""

import os
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import dagster as dg
import httpx
import psutil
from sqlalchemy import NullPool, create_engine, text

from benchmarks.drop_pixels import Photograph
from benchmarks.drop_platform import LogLine, RunningDemo, wait_until
from ls4_assets.assets import keys
from ls4_assets.domain.key_parser import parse_georef_key
from ls4_assets.domain.products import STEPS
from ls4_assets.runtime.dagster_names import PARTITION_TAG
from ls4_assets.runtime.run_line import KIND_TAG

# All that Dagster stores of an asset event. Runs and ticks have tables of their own.
_EVENT_TABLES = ("event_logs", "asset_event_tags", "asset_keys", "asset_check_executions", "dynamic_partitions")
_MIB = 2**20
_IDLE_ATTEMPTS = 5
_UP_TO_DATE = "reused"
_LAUNCH = """
mutation ($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""


def memory_mb_by_service(demo: RunningDemo) -> dict[str, float]:
    """The proportional set size of each service with its child processes, in MiB; shared pages are divided between sharers."""
    by_service: dict[str, float] = defaultdict(float)
    for service, process in _processes(demo):
        with suppress(psutil.NoSuchProcess):
            by_service[service] += process.memory_full_info().pss / _MIB
    return dict(by_service)


def idle_cpu_percent_by_service(demo: RunningDemo, seconds: float) -> dict[str, float]:
    """The CPU time of each service with its child processes while no run starts, in percent of one core."""
    for _ in range(_IDLE_ATTEMPTS):
        demo.wait_until_quiet()
        latest = _latest_run(demo)
        before, started = _cpu_seconds(demo), time.monotonic()
        time.sleep(seconds)
        after, elapsed = _cpu_seconds(demo), time.monotonic() - started
        # The statewide exports follow the last change by up to a minute.
        if _latest_run(demo) == latest:
            return {service: 100 * (after[service] - before.get(service, 0.0)) / elapsed for service in after}
    raise SystemExit(f"A run started in each of {_IDLE_ATTEMPTS} idle periods; the platform is never idle.")


def measure_empty_run(demo: RunningDemo, item: Photograph) -> float:
    """The CPU seconds of the process of a run that finds its frame up to date, launched as the Dagster UI launches runs."""
    demo.wait_until_quiet()
    started = time.time()
    run_id = _launch_up_to_date(demo, item)

    def ends() -> list[LogLine]:
        return [line for line in demo.log_lines(started) if line["event"] == "run_process_ended" and line["run_id"] == run_id]

    wait_until(lambda: bool(ends()), "A run that does nothing did not end", poll_seconds=0.5)
    outcomes = [line["outcome"] for line in demo.log_lines(started) if line["event"] == "frame" and line["run"] == run_id]
    if outcomes != [_UP_TO_DATE]:
        raise SystemExit(f"The run that should do nothing logged frames with the outcomes {outcomes}; fix the benchmark.")
    return float(ends()[0]["cpu_seconds"])


def _launch_up_to_date(demo: RunningDemo, item: Photograph) -> str:
    frame = parse_georef_key(item.key, demo.archive.settings.naming)
    shard = frame.collection.shard
    # With this tag a run leaves frames alone that are up to date.
    tags = {PARTITION_TAG: frame.partition, keys.ONLY_TAG: keys.STALE}
    parameters = {
        "selector": {
            "repositoryLocationName": "ls4",
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": [shard, step]} for step in STEPS],
        },
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
    }
    body = {"query": _LAUNCH, "variables": {"parameters": parameters}}
    response = httpx.post(f"{demo.archive.settings.dagster_url}/graphql", json=body, timeout=60, trust_env=False)
    launched = response.json()["data"]["launchRun"]
    if "run" not in launched:
        raise SystemExit(f"The run that should do nothing was not launched: {launched}; fix the benchmark.")
    return str(launched["run"]["runId"])


def cpu_seconds_by_kind(demo: RunningDemo, since: float) -> dict[str, list[float]]:
    """The CPU seconds of the runs that the sensors requested since a time, by kind of run."""
    ended = {line["run_id"]: line["cpu_seconds"] for line in demo.log_lines(since) if line["event"] == "run_process_ended"}
    by_kind: dict[str, list[float]] = defaultdict(list)
    for run in demo.instance.get_runs(dg.RunsFilter(run_ids=list(ended))) if ended else []:
        by_kind[run.tags.get(KIND_TAG, "other")].append(ended[run.run_id])
    return dict(by_kind)


def event_bytes_by_table() -> dict[str, int]:
    """The size on disk of Dagster's tables of events, with their indexes and TOAST."""
    engine = create_engine(os.environ["LS4_DAGSTER_DATABASE_URL"], poolclass=NullPool)
    with engine.connect() as connection:
        query = text("select pg_total_relation_size(to_regclass(:name))")
        return {name: int(connection.scalar(query, {"name": name}) or 0) for name in _EVENT_TABLES}


def _latest_run(demo: RunningDemo) -> str:
    return demo.instance.get_runs(limit=1)[0].run_id


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
