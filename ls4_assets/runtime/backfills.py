"""Storing and reading backfills, for which Dagster has no public call.

Dagster's private API for backfills is confined to this module; test_rematerialize.py fails when a new version of Dagster
changes it. Which frames a backfill rebuilds is decided in `ls4_assets.cli.backfill`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, PartitionBackfill
from dagster._core.execution.backfill import BulkActionStatus as BackfillStatus
from dagster._core.utils import make_new_backfill_id as new_backfill_id

__all__ = ["SUCCESSFUL", "BackfillProgress", "BackfillStatus", "add_backfill", "list_runs", "new_backfill_id", "read_progress"]

SUCCESSFUL = (BackfillStatus.COMPLETED_SUCCESS, BackfillStatus.COMPLETED)


@dataclass(frozen=True)
class BackfillProgress:
    """State of a backfill. `done` counts partitions, `failed` names them; `final_status` is None until the backfill has ended."""

    done: int
    failed: tuple[str, ...]
    has_started: bool
    final_status: BackfillStatus | None


def add_backfill(
    instance: dg.DagsterInstance,
    backfill_id: str,
    graph: BaseAssetGraph[Any],
    assets: Sequence[dg.AssetKey],
    partitions: Sequence[str],
    *,
    tags: Mapping[str, str],
    title: str,
    description: str,
) -> None:
    """Store a backfill as the Dagster UI does; the daemon runs it."""
    instance.add_backfill(
        PartitionBackfill.from_asset_partitions(
            backfill_id=backfill_id,
            asset_graph=graph,
            partition_names=partitions,
            asset_selection=assets,
            backfill_timestamp=time.time(),
            tags=dict(tags),
            dynamic_partitions_store=instance,
            all_partitions=False,
            title=title,
            description=description,
            run_config=None,
        )
    )


def list_runs(instance: dg.DagsterInstance, backfill_id: str) -> list[str]:
    """Ids of the runs that the backfill has launched so far."""
    return list(instance.get_run_ids(dg.RunsFilter(tags={"dagster/backfill": backfill_id})))


def read_progress(instance: dg.DagsterInstance, backfill_id: str, last_asset: dg.AssetKey) -> BackfillProgress | None:
    """The progress that the daemon stored last; None for a deleted backfill. A partition is done when `last_asset` is."""
    backfill = instance.get_backfill(backfill_id)
    if backfill is None or backfill.asset_backfill_data is None:
        return None
    data = backfill.asset_backfill_data
    done = sum(partition.asset_key == last_asset for partition in data.materialized_subset.iterate_asset_partitions())
    failed = {str(partition.partition_key) for partition in data.failed_and_downstream_subset.iterate_asset_partitions()}
    final_status = backfill.status if backfill.status in BULK_ACTION_TERMINAL_STATUSES else None
    return BackfillProgress(done, tuple(sorted(failed)), not data.requested_subset.is_empty, final_status)
