"""The size of a frame in Dagster's database, in which 3 million frames must fit in 40 GB."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.partitions.subset import DefaultPartitionsSubset
from dagster._core.events import AssetMaterializationPlannedData, AssetObservationData, StepMaterializationData
from dagster_shared.serdes import deserialize_value
from sqlalchemy import Connection, Engine, create_engine, text

from ls4_assets.assets import keys
from ls4_assets.domain.products import STEPS
from ls4_assets.runtime.storage import serialize_event
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif

FOLDER = "bw/Travis/USDA_1958/frames"
FRAMES, COPIES = 50, 60
MAX_BYTES = 8000
SIZE = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"

EventData = StepMaterializationData | AssetObservationData | AssetMaterializationPlannedData | dg.AssetCheckEvaluation


@pytest.fixture
def dagster_database(platform: Platform) -> Engine:
    return create_engine(vars(platform.instance.event_log_storage)["postgres_url"], isolation_level="AUTOCOMMIT")


def packed_size(connection: Connection) -> int:
    """Bytes of all tables, with indexes and compressed values, without the space that the next rows will use."""
    connection.execute(text("VACUUM FULL"))
    return int(connection.scalar(text(SIZE)) or 0)


def add_copies(connection: Connection) -> None:
    """Copy the rows of every frame COPIES times: the last page of a small table or index is mostly empty."""
    columns = text(
        "SELECT table_name, string_agg(column_name, ',') AS names FROM information_schema.columns "
        "WHERE table_schema = 'public' AND column_name NOT IN ('id', 'partition') AND table_name IN "
        "('event_logs', 'asset_check_executions', 'dynamic_partitions') GROUP BY table_name"
    )
    for table, names in connection.execute(columns).all():
        copies = f"SELECT {names}, partition || '-' || copy FROM {table}, generate_series(1, {COPIES}) AS copy"
        connection.execute(text(f"INSERT INTO {table} ({names}, partition) {copies} WHERE partition IS NOT NULL"))
    tags = "event_id, asset_key, key, value, event_timestamp"
    copies = f"SELECT {tags} FROM asset_event_tags, generate_series(1, {COPIES})"
    connection.execute(text(f"INSERT INTO asset_event_tags ({tags}) {copies}"))


def test_frame_takes_less_than_8_kb(platform: Platform, dagster_database: Engine, tmp_path: Path) -> None:
    """A frame took 22 kB and ten rows, so that one rebuild of the archive would have filled 66 GB."""
    tif = write_tif(tmp_path / "good.tif", photograph(60, 70))
    for number in range(FRAMES):
        for folder in ("georef", "scanned"):
            platform.drop(f"{FOLDER}/{folder}/02-08-60_6-{number}.tif", tif)
    (run,) = platform.ingest()
    assert run.success
    with dagster_database.connect() as connection:
        rows = connection.scalar(text("SELECT count(*) FROM event_logs WHERE partition LIKE '%-42'"))
        assert rows == 1 + len(STEPS), "one event for the dropped tif and one for each product"
        run_bytes = connection.scalar(text("SELECT sum(pg_column_size(event)) FROM event_logs WHERE partition IS NULL"))
        before = packed_size(connection)
        add_copies(connection)
        frame_bytes = (packed_size(connection) - before) / COPIES / FRAMES
    assert frame_bytes + int(run_bytes or 0) / FRAMES < MAX_BYTES


def test_frames_have_no_plan_once_they_are_materialized(platform: Platform, tmp_path: Path) -> None:
    """The plan of a failed frame stays, because it is what makes Dagster show the frame as failed."""
    tif = write_tif(tmp_path / "good.tif", photograph(60, 70))
    good, bad = (f"{FOLDER}/georef/02-08-60_6-{number}.tif" for number in range(2))
    platform.drop(good, tif)
    platform.drop(bad, b"%PDF-1.7")
    platform.ingest()
    partitions = [frame_of(key).partition for key in (good, bad)]
    for step in STEPS:
        asset = keys.product("Travis", step)
        assert platform.partitions("Travis", step) == {partitions[0]: "MATERIALIZED", partitions[1]: "FAILED"}
        plans = [platform.instance.get_latest_planned_materialization_info(asset, partition) for partition in partitions]
        assert [plan is not None for plan in plans] == [False, True]
    platform.drop(bad, tif)
    platform.ingest()
    assert set(platform.partitions("Travis", "cog").values()) == {"MATERIALIZED"}


ASSET = dg.AssetKey(["Travis", "cog"])
METADATA: dict[str, Any] = {
    "text": "ñ",
    "number": 1,
    "empty": dg.MetadataValue.null(),
    "json": dg.MetadataValue.json({"a": None}),
    "list": [None],
}
EVENTS = [
    StepMaterializationData(dg.AssetMaterialization(ASSET)),
    StepMaterializationData(dg.AssetMaterialization(ASSET, "why", METADATA, "partition", {"dagster/data_version": "1"})),
    AssetObservationData(dg.AssetObservation(ASSET)),
    AssetObservationData(dg.AssetObservation(ASSET, "why", METADATA, "partition", {"dagster/data_version": "1"})),
    AssetMaterializationPlannedData(ASSET),
    AssetMaterializationPlannedData(ASSET, partition="partition"),
    AssetMaterializationPlannedData(ASSET, partitions_subset=DefaultPartitionsSubset({"partition"})),
    dg.AssetCheckEvaluation(ASSET, "check", passed=True),
    dg.AssetCheckEvaluation(
        ASSET, "check", passed=False, metadata=METADATA, severity=dg.AssetCheckSeverity.WARN, partition="partition", blocking=True
    ),
]


@pytest.mark.parametrize("data", EVENTS, ids=lambda data: type(data).__name__)
def test_short_form_of_an_event_is_the_same_event(data: EventData) -> None:
    kinds = {
        StepMaterializationData: dg.DagsterEventType.ASSET_MATERIALIZATION,
        AssetObservationData: dg.DagsterEventType.ASSET_OBSERVATION,
        AssetMaterializationPlannedData: dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        dg.AssetCheckEvaluation: dg.DagsterEventType.ASSET_CHECK_EVALUATION,
    }
    event = dg.DagsterEvent(kinds[type(data)].value, "job", event_specific_data=data, step_key="step")
    entry = dg.EventLogEntry(None, 10, "", "run", 1.5, step_key="step", job_name="job", dagster_event=event)  # type: ignore[no-untyped-call]
    assert deserialize_value(serialize_event(entry), dg.EventLogEntry) == entry
