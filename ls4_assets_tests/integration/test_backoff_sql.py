"""The waits in SQL are those in Python."""

import pytest
from sqlalchemy import Integer, column, select, values

from ls4_assets.db.backoff import backoff_interval
from ls4_assets.domain.backoff import Backoff
from ls4_assets_tests.platform import Platform

FAILURES = (0, 1, 2, 3, 4, 5, 9, 40, 600, 100_000)


@pytest.mark.parametrize("backoff", [Backoff(30, 4, 1800), Backoff(0.5, 2, 30), Backoff(120, longest_seconds=900)], ids=str)
def test_sql_and_python_agree(platform: Platform, backoff: Backoff) -> None:
    rows = values(column("failures", Integer), name="counts").data([(number,) for number in FAILURES])
    with platform.database.connect() as connection:
        waits = connection.execute(select(rows.c.failures, backoff_interval(backoff, rows.c.failures))).all()
    assert {row[0]: row[1].total_seconds() for row in waits} == {number: backoff.seconds(number) for number in FAILURES}


def test_sql_without_a_longest_wait(platform: Platform) -> None:
    with platform.database.connect() as connection:
        rows = values(column("failures", Integer), name="counts").data([(5,)])
        wait = connection.execute(select(backoff_interval(Backoff(30, 4), rows.c.failures))).scalar_one()
        assert wait.total_seconds() == 7680
