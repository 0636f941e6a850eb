"""Submit a run from within a run. Dagster's public interfaces create runs only from sensors, schedules and people."""

from collections.abc import Mapping, Sequence

import dagster as dg

from ls4_assets.runtime.dagster_names import PARTITION_TAG, REPOSITORY_TAG


def submit_asset_run(
    context: dg.AssetExecutionContext, assets: Sequence[dg.AssetKey], partition: str, tags: Mapping[str, str]
) -> str:
    """Queue a run of these assets with one partition, in the same code location as the run of `context`. Returns its run ID."""
    run = context.run
    repository = {REPOSITORY_TAG: run.tags[REPOSITORY_TAG]} if REPOSITORY_TAG in run.tags else {}
    created = context.instance.create_run_for_job(
        context.repository_def.get_job(run.job_name),
        asset_selection=set(assets),
        tags={**repository, **tags, PARTITION_TAG: partition},
        remote_job_origin=run.remote_job_origin,
        job_code_origin=run.job_code_origin,
    )
    # The queue does not use the workspace: the daemon, which launches the run, has its own.
    context.instance.submit_run(created.run_id, workspace=None)
    return str(created.run_id)
