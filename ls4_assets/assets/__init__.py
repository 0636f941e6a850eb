"""The software-defined assets: thin shells around frame_work, index and mapserver."""

import warnings

from dagster import BetaWarning

# `backfill_policy` is beta in 1.13 and the batching of backfills stands on it (pinned, and tested in test_chain.py): said
# once here instead of a thousand times in every log.
warnings.filterwarnings("ignore", category=BetaWarning, message=".*backfill_policy.*")
