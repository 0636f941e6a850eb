"""Dagster shells: assets, asset checks, events, keys and run tags, and the report that assets show as metadata.

An asset here opens no file and computes no pixel. The work on one frame is in `processing`; the work on one collection is in
`publishing`, `db` and `mapserver`. Sensors and schedules are in the top-level package `sensors`, run launchers in `runtime`.
"""

import warnings

from dagster import BetaWarning

# Dagster 1.13 calls `backfill_policy` and code references beta. Its version is pinned, and test_chain.py and test_definitions.py
# test both. Without this filter every process would log the warning once per asset.
warnings.filterwarnings("ignore", category=BetaWarning, message=".*(backfill_policy|CodeReference).*")
