"""A storm of rebuilds for the drop benchmark: one drop of a frame into each of many collections, which all need a rebuild."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import dagster as dg
from sqlalchemy import select

from benchmarks.drop_pixels import Photograph, Survey
from benchmarks.drop_platform import RunningDemo
from ls4_assets.db.schema import collection
from ls4_assets.runtime.dagster_names import UNFINISHED_STATUSES

_AGENCIES, _YEARS = ("AMS", "USGS", "USAF", "ASCS", "Tobin", "NASA"), range(1920, 2015)
MOST_COLLECTIONS = len(_AGENCIES) * len(_YEARS)
_POLL_SECONDS = 1.0
_EXECUTING = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


@dataclass
class Storm:
    """shown_s: seconds until each collection was on the map, ascending. Runs: the most at one time.

    other_drop_s: seconds until a photograph of another collection, dropped when half of the collections were on the map, was
    on it.
    """

    shown_s: list[float]
    most_queued_runs: int
    most_executing_runs: int
    other_drop_s: float

    def figures(self) -> dict[str, float]:
        return {
            "collections": len(self.shown_s),
            "first_s": self.shown_s[0],
            "half_s": self.shown_s[len(self.shown_s) // 2],
            "all_s": self.shown_s[-1],
            "most_executing_runs": self.most_executing_runs,
            "most_queued_runs": self.most_queued_runs,
            "other_drop_s": self.other_drop_s,
        }

    def line(self) -> str:
        return "drop into many collections: " + ", ".join(f"{name} {value:.0f}" for name, value in self.figures().items())


def measure_storm(demo: RunningDemo, count: int, other: Photograph, seed: int) -> Storm:
    """Drop a frame into each of `count` collections, and `other` when half of them are on the map."""
    pending = {item.collection_name: item for item in _photographs(count)}
    started = demo.drop([*pending.values()], seed)
    storm = Storm([], 0, 0, 0.0)
    other_started = 0.0
    while pending or not storm.other_drop_s:
        time.sleep(_POLL_SECONDS)
        executing = demo.instance.get_runs_count(dg.RunsFilter(statuses=_EXECUTING))
        unfinished = demo.instance.get_runs_count(dg.RunsFilter(statuses=UNFINISHED_STATUSES))
        storm.most_executing_runs = max(storm.most_executing_runs, executing)
        storm.most_queued_runs = max(storm.most_queued_runs, unfinished - executing)
        for name in _published(demo) & pending.keys():
            if demo.maps.shows(pending[name]):
                storm.shown_s.append(time.time() - started)
                del pending[name]
        if not other_started and len(pending) <= count / 2:
            other_started = demo.drop([other], seed)
        if other_started and not storm.other_drop_s and demo.maps.shows(other):
            storm.other_drop_s = time.time() - other_started
    return storm


def _photographs(count: int) -> Iterator[Photograph]:
    for number, (agency, year) in zip(range(count), product(_AGENCIES, _YEARS), strict=False):
        yield Survey(f"{agency}_{year}", columns=24, span=256.0, side=256).photograph(number)


def _published(demo: RunningDemo) -> set[str]:
    with demo.archive.database.connect() as connection:
        return set(connection.execute(select(collection.c.name).where(collection.c.published_at.is_not(None))).scalars())
