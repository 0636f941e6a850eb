"""Evaluations of checks that *Wipe materializations* in the Dagster UI deletes together with the materializations.

Those of a frame follow from its rows: only a COG that passed is published. Those of a collection cost little, so they are made
again. The materializations are in `history` and `collection_history`.
"""

from collections.abc import Iterator, Sequence

import dagster as dg
from sqlalchemy import Connection, select

from ls4_assets.assets import checks, event_store, frame_checks, keys
from ls4_assets.db.frames import ADOPTED, FrameRecord
from ls4_assets.db.schema import SourceState, source
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.publishing.maps import active_publishers
from resources.archive import Archive


def restored_evaluations(connection: Connection, frame: Frame, record: FrameRecord) -> Iterator[dg.AssetCheckEvaluation]:
    """The evaluations that follow from the rows of a frame with a COG. An adopted one never had any."""
    if record.products["cog"].made_by == ADOPTED:
        return
    failed = (source.c.frame == frame.id, source.c.state == SourceState.FAILED)
    reason = connection.scalar(select(source.c.reason).where(*failed))
    yield frame_checks.restored_evaluation(frame, reason)
    if frame.scan_prefix is not None and record.scan_file is None:
        yield frame_checks.raw_scan_evaluation(frame, arrived=False)
    if grids := record.facts.get("missing_grids"):
        yield frame_checks.grids_evaluation(frame, record.facts.get("transformation", ""), "another transformation", grids)


def evaluate_again(archive: Archive, instance: dg.DagsterInstance, collection: Collection, assets: Sequence[str]) -> None:
    """Store new evaluations of the checks of these assets of a collection."""
    evaluations = [
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey([collection.shard, asset]),
            check_name=str(result.check_name),
            passed=result.passed,
            metadata=result.metadata,
            severity=result.severity,
            description=result.description,
            partition=collection.partition,
        )
        for asset, result in _results(archive, collection)
        if asset in assets
    ]
    event_store.store_checks(instance, event_store.RUNLESS_ORIGIN, evaluations)


def _results(archive: Archive, collection: Collection) -> Iterator[tuple[str, dg.AssetCheckResult]]:
    yield keys.tile_index(collection.shard).path[-1], checks.check_index_counts(archive, collection)
    mapfile = keys.mapfile(collection.shard).path[-1]
    for publisher in active_publishers(archive.settings):
        yield mapfile, checks.check_published_documents(archive, collection, publisher)
        yield mapfile, checks.check_map_renders(archive, collection, publisher)
