"""What Dagster is told of each frame: materialisations with what an operator wants to read, and why a frame failed."""

from collections.abc import Iterator, Sequence

import dagster as dg
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from ls4_assets.assets import keys
from ls4_assets.frame_work import Outcome
from ls4_assets.links import links
from ls4_assets.names import Frame, Step


def plan_partitions(context: dg.AssetExecutionContext, frames: Sequence[Frame], steps: Sequence[Step]) -> None:
    """Announce the frames of a run that was given a list, so that those which fail are shown as failed partitions.

    Dagster does this itself for the run's own partition or range, but knows no run over a scattered set. The event is private
    API: it stands here alone, and test_faults.py fails if a new version of Dagster takes it differently.
    """
    for frame in frames:
        if context.has_partition_key and frame.partition == context.partition_key:
            continue
        for step in steps:
            planned = DagsterEvent.build_asset_materialization_planned_event(
                context.run.job_name,
                str(context.op_execution_context.op_handle),
                AssetMaterializationPlannedData(keys.product(frame.collection.shard, step), partition=frame.partition),
            )
            context.instance.report_dagster_event(planned, context.run.run_id)


def materializations(outcome: Outcome, steps: Sequence[Step], public_url: str) -> Iterator[dg.AssetMaterialization]:
    """One event for each step that was asked for, whether its product was made now or was right already."""
    for step in steps:
        product = (outcome.products or {})[step]
        yield dg.AssetMaterialization(
            asset_key=keys.product(outcome.frame.collection.shard, step),
            partition=outcome.frame.partition,
            metadata=_metadata(outcome, step, public_url),
            tags={"dagster/data_version": f"{product.content[:16]}-{product.profile}"},
        )


def fault(outcome_frame: Frame, steps: Sequence[Step], reason: str) -> Iterator[dg.AssetObservation]:
    """The reason, on the page of the frame's own partition."""
    for step in steps:
        yield dg.AssetObservation(
            asset_key=keys.product(outcome_frame.collection.shard, step),
            partition=outcome_frame.partition,
            description=reason,
            metadata={"failed": dg.MetadataValue.text(reason)},
        )


def _metadata(outcome: Outcome, step: Step, public_url: str) -> dict[str, dg.MetadataValue]:
    frame, product, facts, result = outcome.frame, (outcome.products or {})[step], outcome.facts or {}, outcome.result
    found: dict[str, dg.MetadataValue] = {
        "key": dg.MetadataValue.text(frame.product_key(step)),
        "size": dg.MetadataValue.int(product.size),
        "profile": dg.MetadataValue.text(product.profile),
        "source_key": dg.MetadataValue.text(outcome.source.key if outcome.source else ""),
        "source_version": dg.MetadataValue.text(outcome.source.version if outcome.source else ""),
        "source_sha256": dg.MetadataValue.text(outcome.content_hash),
        "work": dg.MetadataValue.text("made now" if outcome.status == "made" else "right already, nothing to do"),
        "frame_seconds": dg.MetadataValue.float(outcome.seconds),
    }
    if "width" in facts:
        found["dimensions"] = dg.MetadataValue.text(f"{facts['width']} x {facts['height']}")
    if "source_crs" in facts:
        found["crs"] = dg.MetadataValue.text(f"EPSG:3857 (dropped in {facts['source_crs']})")
        found["valid_share"] = dg.MetadataValue.float(facts["valid_share"])
    if result and step in result.seconds:
        found["seconds"] = dg.MetadataValue.float(result.seconds[step])
        found["peak_memory_mb"] = dg.MetadataValue.float(result.peak_mb[step])
    if result and step != "deflate":
        found["overview_levels"] = dg.MetadataValue.text(" ".join(map(str, result.overview_levels)))
    if step == "cog":
        found["link"] = dg.MetadataValue.url(links(frame, public_url, None).dl_georef)
        found["thumbnail"] = dg.MetadataValue.url(f"{public_url}/{frame.thumbnail_key}")
    return found
