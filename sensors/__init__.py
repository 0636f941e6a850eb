"""The sensors, one module each: ingest by polling or by events, publishing, statewide exports, notifications, reconciliation.

They are thin: what a tick does is in `ls4_assets.ingest`, `.publishing`, `.notifications` and `.operations`.
"""

# Dagster's daemon evaluates sensors every 5 s, and skips one whose interval is longer than the time since its last tick, even by
# milliseconds. An interval of 5 s would fire every 8 to 10 s.
DAEMON_SLACK_SECONDS = 1


def minimum_interval(seconds: int) -> int:
    """The interval to give to Dagster for a sensor that fires every `seconds`."""
    return max(1, seconds - DAEMON_SLACK_SECONDS)
