"""A complete platform for integration tests: a folder as the bucket, real databases, and a Dagster instance on PostgreSQL.

Sensors are evaluated and the runs they request are executed in this process, so that a test can inspect each step.
`test_demo.py` covers the same with the real daemon and web server, in the slow tier.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from sqlalchemy import URL, Engine, make_url, text

from ls4_assets.assets import keys
from ls4_assets.db.bootstrap import bootstrap
from ls4_assets.db.roles import ROLES
from ls4_assets.definitions import build_definitions
from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.key_parser import parse_georef_key
from ls4_assets.domain.names import Frame, Shards
from ls4_assets.local.postgres import Cluster
from ls4_assets.runtime.backfills import BackfillStatus
from ls4_assets.settings import Settings
from resources.archive import Archive
from resources.storage import Storage

CHECKOUT = Path(__file__).resolve().parents[1]
PASSWORDS = dict.fromkeys(ROLES, "only-for-tests")
NAMING = read_archive_file(None).naming
# The shards that the tests of the shipped archive need; a test with an archive file of its own has all of its shards.
SHARDS: Shards = {name: kind for name, kind in NAMING.shards.items() if name in ("Travis", "Bastrop", "USDA", "AMS", "StratMap")}


@dataclass
class Platform:
    """`archive` is the resource of the assets; `instance` stores their events. `cursors` has the cursor of each sensor, and
    `rebuilds` the requests that deletions left for `rebuild`."""

    archive: Archive
    instance: dg.DagsterInstance
    definitions: dg.Definitions
    cursors: dict[str, str | None] = field(default_factory=dict)
    rebuilds: list[dg.RunRequest] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.archive.settings

    @property
    def storage(self) -> Storage:
        return self.archive.storage

    @property
    def database(self) -> Engine:
        return self.archive.database

    def with_settings(self, **overrides: str) -> "Platform":
        """The same platform after the operator changed settings and restarted it."""
        archive = Archive(overrides=self.archive.overrides | overrides)
        return Platform(archive, self.instance, definitions_of(archive), self.cursors, self.rebuilds)

    def drop(self, key: str, data: bytes | Path) -> None:
        """Upload a file as staff would."""
        self.storage.put(key, data.read_bytes() if isinstance(data, Path) else data)

    def tick(self, sensor_name: str) -> dg.SensorResult | dg.SkipReason:
        """Evaluate a sensor once, and store its events as the daemon would."""
        sensor = self.definitions.get_sensor_def(sensor_name)
        context = dg.build_sensor_context(
            instance=self.instance,
            definitions=self.definitions,
            cursor=self.cursors.get(sensor_name),
            resources={"archive": self.archive},
        )
        result = sensor(context)
        if isinstance(result, dg.SensorResult):
            self.cursors[sensor_name] = result.cursor
            for event in result.asset_events or []:
                self.instance.report_runless_asset_event(event)
        assert isinstance(result, dg.SensorResult | dg.SkipReason)
        return result

    def ingest(self) -> list[dg.ExecuteInProcessResult]:
        """Scan the bucket until all uploads and deletions have settled, and execute the requested runs."""
        runs = []
        for _ in range(3):
            result = self.tick("ingest_poll")
            requests = (result.run_requests or []) if isinstance(result, dg.SensorResult) else []
            self.rebuilds.extend(request for request in requests if keys.COLLECTION_TAG in request.tags)
            runs += self.execute([request for request in requests if keys.COLLECTION_TAG not in request.tags])
        return runs

    def rebuild(self) -> list[dg.ExecuteInProcessResult]:
        """Execute the rebuilds that deletions requested during `ingest`, and those that the sensor requests."""
        requested, self.rebuilds[:] = list(self.rebuilds), []
        return [*self.execute(requested), *self.execute(self.tick("publish_collections"))]

    def settle(self) -> list[dg.ExecuteInProcessResult]:
        """Process everything in the bucket, and publish it."""
        return [*self.ingest(), *self.rebuild()]

    def skip_waits(self) -> None:
        """Make everything due that waits for its next retry or check."""
        with self.database.begin() as connection:
            connection.execute(text("UPDATE ls4.source SET retry_after = NULL"))
            connection.execute(text("UPDATE ls4.collection SET requested_at = NULL, raw_scans_checked_at = NULL"))

    def execute(self, result: dg.SensorResult | dg.SkipReason | Sequence[dg.RunRequest]) -> list[dg.ExecuteInProcessResult]:
        if isinstance(result, dg.SkipReason):
            return []
        requests = (result.run_requests or []) if isinstance(result, dg.SensorResult) else result
        return [
            self.run(request.asset_selection or [], request.run_config, request.partition_key, request.tags)
            for request in requests
        ]

    def run(
        self,
        selection: Sequence[dg.AssetKey],
        run_config: Mapping[str, object] | None = None,
        partition_key: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(selection))
        return job.execute_in_process(
            instance=self.instance,
            run_config=run_config or {},
            partition_key=partition_key,
            tags=dict(tags or {}),
            raise_on_error=False,
        )

    def state(self, key: str) -> tuple[str, str | None]:
        """State and reason of a dropped tif."""
        with self.database.connect() as connection:
            row = connection.execute(text("SELECT state, reason FROM ls4.source WHERE key = :key"), {"key": key}).one()
        return row.state, row.reason

    def rows(self, statement: str, **values: object) -> list[dict[str, object]]:
        with self.database.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(text(statement), values)]

    def partitions(self, shard: str, step: str) -> dict[str, str]:
        """Status of each partition of an asset as the Dagster UI shows it: MATERIALIZED or FAILED."""
        statuses = self.instance.get_status_by_partition(
            dg.AssetKey([shard, step]), self.instance.get_dynamic_partitions(f"frames/{shard}"), keys.frame_partitions(shard)
        )
        return {key: status.name for key, status in (statuses or {}).items() if status}


def definitions_of(archive: Archive) -> dg.Definitions:
    settings = archive.settings
    shards, has_events = _shards_of(archive), bool(settings.events_queue_url)
    return build_definitions(shards, archive, 5, settings.profiles, has_events=has_events, map_publishers=settings.map_publishers)


def _shards_of(archive: Archive) -> Shards:
    return archive.settings.shards if archive.settings.archive_file else SHARDS


def frame_of(key: str) -> Frame:
    return parse_georef_key(key, NAMING)


@contextmanager
def empty_archive(cluster: Cluster, folder: Path, storage: str | None = None, **overrides: str) -> Iterator[Archive]:
    """An archive with an empty database, without Dagster; `storage` defaults to a folder below `folder`."""
    bootstrap(cluster.admin_url, PASSWORDS)
    url = make_url(cluster.admin_url).set(drivername="postgresql+psycopg2")
    archive_folder = folder / "archive"
    archive_folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "storage": storage or str(archive_folder),
        "database_url": _role_url(url, "ls4"),
        "public_url": "http://maps.test/archive",
        "map_url": "http://maps.test",
        "settle_seconds": "0.001",
        "reader_grace_seconds": "0",
        "worker_processes": "2",
    } | overrides
    archive = Archive(overrides=settings)
    _empty(archive.database)
    try:
        yield archive
    finally:
        _empty(archive.database)


@contextmanager
def running_platform(cluster: Cluster, folder: Path, storage: str | None = None, **overrides: str) -> Iterator[Platform]:
    """A platform with empty databases; `storage` defaults to a folder below `folder`."""
    with ExitStack() as stack:
        archive = stack.enter_context(empty_archive(cluster, folder, storage, **overrides))
        url = make_url(cluster.admin_url).set(drivername="postgresql+psycopg2")
        instance = stack.enter_context(_instance(folder / "dagster", _role_url(url, "dagster"), _shards_of(archive)))
        yield Platform(archive, instance, definitions_of(archive))


def _role_url(admin: str | URL, role: str) -> str:
    return make_url(admin).set(username=role, password=PASSWORDS[role], database=role).render_as_string(hide_password=False)


def _empty(database: Engine) -> None:
    """Delete the data of a test. All tests of a session share the databases, because creating them takes seconds."""
    with database.begin() as connection:
        owned = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tableowner = 'ls4'"
        for name in set(connection.scalars(text(owned))) - {"overview_mosaics"}:
            connection.execute(text(f'DROP TABLE public."{name}"'))
        names = (
            "source",
            "frame",
            "collection",
            "rejection",
            "failed_run",
            "notification",
            "statewide_build",
            "inbox",
            "unlisted_folder",
            "warm_server",
        )
        tables = ", ".join(["public.overview_mosaics", *(f"ls4.{name}" for name in names)])
        connection.execute(text(f"TRUNCATE {tables} CASCADE"))


def end_backfills(instance: dg.DagsterInstance) -> None:
    """End all backfills, as the daemon does: one that has not ended rejects the same one."""
    for backfill in instance.get_backfills(status=BackfillStatus.REQUESTED):
        instance.update_backfill(backfill._replace(status=BackfillStatus.COMPLETED_SUCCESS))


@contextmanager
def _instance(home: Path, url: str, shards: Shards) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance on PostgreSQL, emptied before use."""
    home.mkdir(parents=True, exist_ok=True)
    storage = {"module": "ls4_assets.runtime.storage", "class": "PostgresStorage", "config": {"postgres_url": url}}
    config = {"storage": {"custom": storage}, "telemetry": {"enabled": False}}
    (home / "dagster.yaml").write_text(json.dumps(config))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.wipe()
        end_backfills(instance)
        for shard in shards:
            for kind in ("frames", "collections"):
                for key in instance.get_dynamic_partitions(f"{kind}/{shard}"):
                    instance.delete_dynamic_partition(f"{kind}/{shard}", key)
        yield instance
