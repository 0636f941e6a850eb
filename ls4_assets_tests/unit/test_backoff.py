"""Waits after failures in a row: the values of each user, and that no module has a formula of its own."""

import ast
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from ls4_assets.db import export_state
from ls4_assets.db.export_state import StatewideBuild
from ls4_assets.domain.backoff import Backoff
from ls4_assets.domain.names import Collection
from ls4_assets.ingest import batches, events
from ls4_assets.local import supervisor
from ls4_assets.publishing import rebuilds
from ls4_assets.publishing.rebuilds import PendingRebuild
from ls4_assets_tests.platform import CHECKOUT
from mapserver import penalties, workers

WAITS: dict[str, tuple[Backoff, list[float]]] = {
    "run that crashed": (batches._BACKOFF, [30, 120, 480, 1920, 7680]),
    "folder that cannot be listed": (events._BACKOFF, [30, 120, 480, 1800, 1800]),
    "rebuild": (rebuilds._BACKOFF, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]),
    "statewide build": (export_state._BACKOFF, [120, 240, 480, 900, 900]),
    "map worker that does not start": (workers._START_BACKOFF, [0.5, 1, 2, 4, 8, 16, 30, 30]),
    "map worker that crashed in a request": (workers._CRASH_BACKOFF, [0.05, 0.1, 0.2, 0.4, 0.8, 1, 1]),
    "client that crashed a map worker": (penalties._BACKOFF, [1, 2, 4, 8, 16, 32, 60, 60]),
    "local service": (supervisor._BACKOFF, [1, 2, 4]),
}
# Powers that are not waits: pixels, zoom levels, memory, and the helper.
OTHER_POWERS = (
    *("ls4_assets/raster/", "ls4_assets/domain/profiles.py", "ls4_assets/processing/run_size.py", "mapserver/tiles.py"),
    *("ls4_assets/local/synthetic_terrain.py", "ls4_assets/domain/backoff.py", "ls4_assets/db/backoff.py"),
)


@pytest.mark.parametrize("user", WAITS)
def test_waits_of_each_user(user: str) -> None:
    backoff, waits = WAITS[user]
    assert [backoff.seconds(failures) for failures in range(1, len(waits) + 1)] == waits
    assert backoff.seconds(0) == 0


def test_many_failures_do_not_overflow() -> None:
    """After ten days of failures a folder's wait was too large a number for PostgreSQL, and the sensor failed."""
    assert Backoff(30, 4, 1800).seconds(100_000) == 1800


def test_rebuild_may_start_after_its_wait() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    rebuild = PendingRebuild(Collection("Travis", "USDA_1958", "frames"), "tile_index", now, 3)
    assert not rebuild.may_start(now + timedelta(seconds=119))
    assert rebuild.may_start(now + timedelta(seconds=120))


def test_statewide_build_waits_after_its_start() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    build = StatewideBuild(changed=True, busy=False, seconds=5, started_at=now, compiled_at=None, attempts=2)
    assert build.waits_until() == now + timedelta(seconds=240)


@pytest.mark.parametrize(
    ("changed", "compiled", "hours", "is_due"),
    [
        (False, True, 23, False),
        (False, True, 24, True),
        (True, True, 0, True),
        (False, False, 99, False),
        (True, False, 0, True),
    ],
)
def test_statewide_files_are_also_built_once_a_day(changed: bool, compiled: bool, hours: int, is_due: bool) -> None:
    """The freshness policy of the files expects a build a day, and an empty archive has none."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    last = now - timedelta(hours=hours) if compiled else None
    build = StatewideBuild(changed=changed, busy=False, seconds=5, started_at=None, compiled_at=last, attempts=0)
    assert build.is_due(now) == is_due


def powers_in(source: str) -> Iterator[int]:
    """Lines with a power of a variable, `growth ** failures` or `func.power(...)`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.BinOp(op=ast.Pow(), right=exponent) if not isinstance(exponent, ast.Constant):
                yield exponent.lineno
            case ast.Attribute(attr="power" | "pow"):
                yield node.lineno


def test_no_module_has_a_formula_of_its_own() -> None:
    """Six modules had one, and one of them overflowed."""
    found = [
        f"{path.relative_to(CHECKOUT)}:{line}"
        for package in ("ls4_assets", "resources", "sensors", "mapserver")
        for path in (CHECKOUT / package).rglob("*.py")
        if not str(path.relative_to(CHECKOUT)).startswith(OTHER_POWERS)
        for line in powers_in(path.read_text())
    ]
    assert found == [], "use ls4_assets.domain.backoff or ls4_assets.db.backoff"
    assert list(powers_in("wait = 30 * 2 ** failures"))
    assert list(powers_in("wait = func.power(4, attempts)"))
