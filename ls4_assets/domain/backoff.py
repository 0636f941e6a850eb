"""Exponential backoff: how long to wait after failures in a row. The same in SQL is `db/backoff.py`."""

import math
from dataclasses import dataclass

# 2.0**1024 does not fit a double, in Python as in PostgreSQL. By then every wait has reached its maximum.
MAX_STEPS = 50


@dataclass(frozen=True)
class Backoff:
    """Waits in seconds: `first_seconds` after the first failure, then `growth` times as long after each further one, at most
    `longest_seconds`."""

    first_seconds: float
    growth: float = 2.0
    longest_seconds: float = math.inf

    def seconds(self, failures: int) -> float:
        """Returns the wait after that many failures in a row; none after 0."""
        if failures < 1:
            return 0.0
        return min(self.first_seconds * self.growth ** min(failures - 1, MAX_STEPS), self.longest_seconds)
