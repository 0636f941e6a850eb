"""Dagster's reserved tags and groups of run states, which Dagster publishes as text only.

Written here as literals, so that no module needs Dagster's private constants for them. The tags of our own are in
`ls4_assets.assets.keys`.
"""

import dagster as dg

CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"
DATA_VERSION_IS_USER_PROVIDED_TAG = "dagster/data_version_is_user_provided"
INPUT_DATA_VERSION_TAG = "dagster/input_data_version/{asset}"
INPUT_EVENT_POINTER_TAG = "dagster/input_event_pointer/{asset}"
NO_EVENT_POINTER = "NULL"
# The label of a run's code location, by which the UI filters runs.
REPOSITORY_TAG = ".dagster/repository"
PARTITION_TAG = "dagster/partition"
PARTITION_RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")

FINISHED_STATUSES = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
_WAITING = {dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.MANAGED}
# By exclusion, so that a state that Dagster adds counts as unfinished.
UNFINISHED_STATUSES = [
    status for status in dg.DagsterRunStatus if status not in {*FINISHED_STATUSES, dg.DagsterRunStatus.MANAGED}
]
ACTIVE_STATUSES = [status for status in UNFINISHED_STATUSES if status not in _WAITING]
