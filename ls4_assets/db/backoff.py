"""Exponential backoff in SQL, for rows that each have their own number of failures."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Double, case, cast, func, literal

from ls4_assets.domain.backoff import MAX_STEPS, Backoff


def backoff_interval(backoff: Backoff, failures: ColumnElement[int]) -> ColumnElement[Any]:
    """Returns `backoff.seconds(failures)` as an interval."""
    grown = backoff.first_seconds * func.power(cast(backoff.growth, Double), func.least(failures - 1, MAX_STEPS))
    seconds = func.least(grown, cast(backoff.longest_seconds, Double))
    return case((failures < 1, literal(0.0)), else_=seconds) * literal(timedelta(seconds=1))
