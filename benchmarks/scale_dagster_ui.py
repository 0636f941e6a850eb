"""Dagster with few and with many shards in use, and with many partitions: definitions and pages of the Dagster UI.

The page's queries go to a real dagster-webserver. The webserver caches its counts, so each asset's page is requested right after
a partition was added and another was materialized, when all counts must be computed again.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import httpx

from benchmarks.scale_shards import use_shards
from benchmarks.scale_ui_browser import measure_pages
from ls4_assets.assets import keys
from ls4_assets.definitions import defs
from ls4_assets.domain.chunks import chunks
from ls4_assets.local.state import find_free_port
from resources.archive import Archive
from sensors.collection_pages import update_pages

_CHUNK = 5_000
_MATERIALIZED = 100
_PAGES = 3
_START_TIMEOUT_SECONDS = 300

_PAGE_QUERY = """
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


def measure_dagster_ui(partitions: int, *in_use: int) -> dict[str, Any]:
    """Figures with the last of `in_use` shards, and what a browser loads with each."""
    archive = Archive()
    counties = sorted(shard for shard, kind in archive.settings.shards.items() if kind == "county")
    with dg.DagsterInstance.get() as instance:
        browser = {str(count): _measure_browser(archive, instance, counties[:count]) for count in in_use}
        shards = counties[: in_use[-1]]
        definitions = _measure_definitions()
        per_shard = -(-partitions // len(shards))
        started = time.perf_counter()
        for shard in shards:
            _add_partitions(instance, shard, per_shard)
        added_s = time.perf_counter() - started
        with _webserver() as (address, up_s):
            pages = [_measure_page(instance, address, shard, per_shard) for shard in shards[:_PAGES]]
    return {
        "shards": len(shards), "partitions": per_shard * len(shards), **definitions,
        "partition_page_s": max(cold for cold, _ in pages), "partition_page_again_s": max(warm for _, warm in pages),
        "up_s": up_s, "add_partitions_s": added_s, "browser": browser,
    }  # fmt: skip


def load_definitions() -> tuple[float, float]:
    """Seconds and CPU seconds to load the definitions, without imports. Call it in a new process, where nothing is cached."""
    started, cpu = time.perf_counter(), time.process_time()
    repository = defs().get_repository_def()
    assert len(repository.asset_graph.get_all_asset_keys()) > 9, "the shards' assets were not loaded"
    return time.perf_counter() - started, time.process_time() - cpu


def _measure_browser(archive: Archive, instance: dg.DagsterInstance, shards: Sequence[str]) -> dict[str, float]:
    collections = use_shards(archive, shards)
    started = time.perf_counter()
    pages = update_pages(instance, archive)
    stored_s, started = time.perf_counter() - started, time.perf_counter()
    assert not update_pages(instance, archive), "pages that did not change were stored"
    compared_s = time.perf_counter() - started
    with _webserver() as (address, up_s):
        figures = measure_pages(address)
    return {
        "shards_of_archive": len(archive.settings.shards), "collections": collections, "collection_pages": pages,
        "store_pages_s": stored_s, "compare_pages_s": compared_s, "up_s": up_s, **figures,
    }  # fmt: skip


def _measure_definitions() -> dict[str, float]:
    code = "import json; from benchmarks.scale_dagster_ui import load_definitions; print(json.dumps(load_definitions()))"
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    with_imports = time.perf_counter() - started
    wall, cpu = json.loads(result.stdout.splitlines()[-1])
    return {"definitions_load_s": wall, "definitions_load_cpu_s": cpu, "definitions_process_s": with_imports}


def _partition(number: int) -> str:
    return f"USDA_{1930 + number // 500}/frames/bw/02-08-60_6-{number % 500:03d}"


def _add_partitions(instance: dg.DagsterInstance, shard: str, count: int) -> None:
    for numbers in chunks(range(count), _CHUNK):
        instance.add_dynamic_partitions(str(keys.frame_partitions(shard).name), [_partition(number) for number in numbers])


def _measure_page(instance: dg.DagsterInstance, address: str, shard: str, count: int) -> tuple[float, float]:
    """Seconds of the page of a shard's COGs: the first request after a change, and the second."""
    cog = keys.product(shard, "cog")
    materialized = min(count, _MATERIALIZED)
    for number in range(materialized):
        instance.report_runless_asset_event(dg.AssetMaterialization(cog, partition=_partition(number)))
    _request_page(address, cog)
    instance.add_dynamic_partitions(str(keys.frame_partitions(shard).name), [_partition(count)])
    instance.report_runless_asset_event(dg.AssetMaterialization(cog, partition=_partition(count)))
    cold, counts = _request_page(address, cog)
    expected = (materialized + 1, count + 1)
    assert counts == expected, f"the page of {shard} shows {counts}, expected {expected}"
    return cold, _request_page(address, cog)[0]


def _request_page(address: str, key: dg.AssetKey) -> tuple[float, tuple[int, int]]:
    """Seconds, and the numbers of materialized partitions and of all partitions on the page."""
    started = time.perf_counter()
    query = {"query": _PAGE_QUERY, "variables": {"key": {"path": list(key.path)}}}
    answer = httpx.post(f"{address}/graphql", json=query, timeout=120, trust_env=False).raise_for_status().json()
    seconds = time.perf_counter() - started
    node = (answer.get("data") or {}).get("assetNodeOrError") or {}
    assert "partitionStats" in node, f"the page of {key.to_user_string()} returned {json.dumps(answer)[:500]}"
    return seconds, (node["partitionStats"]["numMaterialized"], node["partitionStats"]["numPartitions"])


@contextmanager
def _webserver() -> Iterator[tuple[str, float]]:
    """Run the webserver; yields its address, and the seconds until its definitions were loaded."""
    port, log = find_free_port(), Path(os.environ["DAGSTER_HOME"]) / "webserver.log"
    command = [
        sys.executable,
        "-m",
        "ls4_assets.operations.webserver",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--module-name",
        "ls4_assets.definitions",
    ]
    address, started = f"http://127.0.0.1:{port}", time.perf_counter()
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        while not _is_up(address):
            if server.poll() is not None or time.perf_counter() - started > _START_TIMEOUT_SECONDS:
                raise RuntimeError(f"dagster-webserver does not start: {log.read_text()[-2000:]}\nFix the error and start again.")
            time.sleep(0.1)
        yield address, time.perf_counter() - started
    finally:
        # The process group includes the code server that it started.
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _is_up(address: str) -> bool:
    try:
        return httpx.get(f"{address}/server_info", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
