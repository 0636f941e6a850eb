"""Dagster with all shards of the archive and so many partitions: how long its definitions load, and a partition page takes.

The page's queries go to a real dagster-webserver. It keeps what it counted, so each asset's page is asked for right after a
partition was added and another was materialised, when everything has to be counted anew.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import httpx

from ls4_assets.assets import keys
from ls4_assets.db.chunks import chunks
from ls4_assets.definitions import defs
from ls4_assets.local.state import free_port
from resources.archive import Archive

_ADDED_AT_ONCE = 5_000
_MATERIALIZED = 100
_PAGES = 3
_UP_WITHIN = 300

_PAGE = """
query Page($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) {
    ... on AssetNode {
      partitionStats { numMaterialized numPartitions numFailed numMaterializing }
      partitionKeysByDimension { name type partitionKeys }
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses {
          materializedPartitions materializingPartitions failedPartitions unmaterializedPartitions
        }
      }
    }
  }
}
"""


def measure_dagit(partitions: int) -> dict[str, float]:
    archive = Archive()
    shards = sorted(archive.settings.shards)
    loaded = _definitions_load()
    with dg.DagsterInstance.get() as instance:
        each = -(-partitions // len(shards))
        started = time.perf_counter()
        for shard in shards:
            _add_partitions(instance, shard, each)
        added_s = time.perf_counter() - started
        with _webserver() as (address, up_s):
            pages = [_page(instance, address, shard, each) for shard in shards[:_PAGES]]
    return {
        "shards": len(shards), "partitions": each * len(shards), **loaded,
        "partition_page_s": max(cold for cold, _ in pages), "partition_page_again_s": max(warm for _, warm in pages),
        "up_s": up_s, "add_partitions_s": added_s,
    }  # fmt: skip


def load_definitions() -> tuple[float, float]:
    """Seconds and CPU seconds, without the imports; in a fresh process, where nothing is cached."""
    started, cpu = time.perf_counter(), time.process_time()
    repository = defs().get_repository_def()
    assert len(repository.asset_graph.get_all_asset_keys()) > 254, "the shards' assets were not loaded"
    return time.perf_counter() - started, time.process_time() - cpu


def _definitions_load() -> dict[str, float]:
    code = "import json; from benchmarks.scale_dagster_ui import load_definitions; print(json.dumps(load_definitions()))"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    with_imports = time.perf_counter() - started
    wall, cpu = json.loads(done.stdout.splitlines()[-1])
    return {"definitions_load_s": wall, "definitions_load_cpu_s": cpu, "definitions_process_s": with_imports}


def _partition(number: int) -> str:
    return f"USDA_{1930 + number // 500}/frames/bw/02-08-60_6-{number % 500:03d}"


def _add_partitions(instance: dg.DagsterInstance, shard: str, count: int) -> None:
    for some in chunks(range(count), _ADDED_AT_ONCE):
        instance.add_dynamic_partitions(str(keys.frame_partitions(shard).name), [_partition(number) for number in some])


def _page(instance: dg.DagsterInstance, address: str, shard: str, count: int) -> tuple[float, float]:
    """Seconds of the page of a shard's COGs, the first time after a change and again."""
    cog = keys.product(shard, "cog")
    made = min(count, _MATERIALIZED)
    for number in range(made):
        instance.report_runless_asset_event(dg.AssetMaterialization(cog, partition=_partition(number)))
    _ask(address, cog)
    instance.add_dynamic_partitions(str(keys.frame_partitions(shard).name), [_partition(count)])
    instance.report_runless_asset_event(dg.AssetMaterialization(cog, partition=_partition(count)))
    cold, stats = _ask(address, cog)
    assert stats == (made + 1, count + 1), f"the page of {shard} counts {stats} of {(made + 1, count + 1)}"
    return cold, _ask(address, cog)[0]


def _ask(address: str, key: dg.AssetKey) -> tuple[float, tuple[int, int]]:
    """Seconds, and how many partitions the page says are materialised, and are there."""
    started = time.perf_counter()
    asked = {"query": _PAGE, "variables": {"key": {"path": list(key.path)}}}
    answer = httpx.post(f"{address}/graphql", json=asked, timeout=120, trust_env=False).raise_for_status().json()
    seconds = time.perf_counter() - started
    node = (answer.get("data") or {}).get("assetNodeOrError") or {}
    assert "partitionStats" in node, f"the Dagster UI's page of {key.to_user_string()} answers {json.dumps(answer)[:500]}"
    return seconds, (node["partitionStats"]["numMaterialized"], node["partitionStats"]["numPartitions"])


@contextmanager
def _webserver() -> Iterator[tuple[str, float]]:
    """Its address, and the seconds until it answered with its definitions loaded."""
    port, log = free_port(), Path(os.environ["DAGSTER_HOME"]) / "webserver.log"
    program = str(Path(sys.executable).parent / "dagster-webserver")
    command = [program, "--host", "127.0.0.1", "--port", str(port), "--module-name", "ls4_assets.definitions"]
    address, started = f"http://127.0.0.1:{port}", time.perf_counter()
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        while not _is_up(address):
            if server.poll() is not None or time.perf_counter() - started > _UP_WITHIN:
                raise RuntimeError(f"dagster-webserver does not start: {log.read_text()[-2000:]}; mend that and start again.")
            time.sleep(0.1)
        yield address, time.perf_counter() - started
    finally:
        # With the code server that it started.
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _is_up(address: str) -> bool:
    try:
        return httpx.get(f"{address}/server_info", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
