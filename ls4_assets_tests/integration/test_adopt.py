"""Adoption of finished COGs without processing pixels: those of lambda-s4, or of ls4 after it lost its database."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest
import rasterio
import rasterio.shutil
from click.testing import CliRunner
from sqlalchemy import create_engine, make_url, text

from ls4_assets.assets import keys
from ls4_assets.assets.frame_metadata import format_size
from ls4_assets.cli.main import main
from ls4_assets.db.audit import audit_archive, audit_collection
from ls4_assets.domain.names import Frame
from ls4_assets.domain.products import STEPS
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.adopt.archive import adopt, scans_paused
from ls4_assets.operations.adopt.collection import AdoptReport
from ls4_assets.operations.status import collect
from ls4_assets.operations.status_text import format_status
from ls4_assets.raster.gdal_env import gdal_env
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, rotated_rectangle, write_tif
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401

FOLDER = "bw/Travis/USDA_1958/frames"
KEYS = [f"{FOLDER}/georef/02-08-60_6-{number}.tif" for number in range(101, 105)]
FRAMES = [frame_of(key) for key in KEYS]
COLLECTION = FRAMES[0].collection
TABLE = COLLECTION.table
ADVICE = "drop its georeferenced tif as"


@pytest.fixture(params=["folder", "moto", pytest.param("seaweedfs", marks=pytest.mark.slow)])
def any_platform(
    request: pytest.FixtureRequest, s3_server: Callable[[str], S3Server], cluster: Cluster, tmp_path: Path
) -> Iterator[Platform]:
    if request.param == "folder":
        with running_platform(cluster, tmp_path) as running:
            yield running
        return
    server = s3_server(request.param)
    bucket = f"s3://{server.new_bucket().bucket}"
    with running_platform(cluster, tmp_path, bucket, s3_endpoint_url=server.endpoint_url, s3_region=REGION) as running:
        yield running


@pytest.fixture(scope="module")
def cogs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A good COG, a small one, one in color, and one without overviews."""
    folder = tmp_path_factory.mktemp("cogs")
    data = {}
    kinds: Sequence[tuple[str, int, int, dict[str, str]]] = (
        ("good", 1, 700, {}),
        ("small", 1, 64, {}),
        ("color", 3, 700, {}),
        ("flat", 1, 700, {"overviews": "NONE"}),
    )
    for name, bands, size, options in kinds:
        source = write_tif(folder / f"{name}-source.tif", photograph(size, size, bands), mask=rotated_rectangle(size, size))
        with gdal_env():
            rasterio.shutil.copy(source, folder / f"{name}.tif", driver="COG", **options)
        data[name] = (folder / f"{name}.tif").read_bytes()
    return data


def build_environment(platform: Platform) -> dict[str, str]:
    """Return the environment variables with which the `ls4` command finds this platform."""
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    return settings | {"DAGSTER_HOME": str(platform.instance.root_directory)}


def georef_tif(folder: Path, seed: int = 7) -> bytes:
    return write_tif(folder / "georef.tif", photograph(300, 320, seed=seed)).read_bytes()


def adopt_collection(platform: Platform, *, apply: bool = True, ignore_times: bool = False) -> AdoptReport:
    """Adopt the collection of these tests. A failure of the whole collection fails the test."""
    ref = platform.instance.get_ref() if apply else None
    (report,) = adopt(platform.settings, [COLLECTION], ref, ignore_times=ignore_times)
    assert isinstance(report, AdoptReport), report
    return report


def frame_rows(platform: Platform) -> dict[str, dict[str, object]]:
    return {str(row["id"]): row for row in platform.rows("SELECT * FROM ls4.frame ORDER BY id")}


def materialized_partitions(platform: Platform) -> list[str]:
    return sorted(key for key, status in platform.partitions("Travis", "cog").items() if status == "MATERIALIZED")


def stored_products(platform: Platform, frame: Frame) -> list[object]:
    return [platform.storage.head(frame.product_key(step)) for step in STEPS]


def drop_archive(platform: Platform, cogs: dict[str, bytes], folder: Path) -> None:
    """Drop four frames: two with georef tif and COG, one whose COG cannot be adopted, and one that has only a COG."""
    platform.drop(f"{FOLDER}/scanned/02-08-60_6-101.TIF", b"the raw scan")
    for key in KEYS[:3]:
        platform.drop(key, georef_tif(folder))
    for frame, kind in zip(FRAMES, ("good", "good", "flat", "good"), strict=True):
        platform.drop(frame.cog_key, cogs[kind])


def test_adopted_cogs_get_index_and_map_without_processing(
    any_platform: Platform, cogs: dict[str, bytes], tmp_path: Path
) -> None:
    platform = any_platform
    drop_archive(platform, cogs, tmp_path)
    before = {frame: stored_products(platform, frame) for frame in FRAMES}

    plan = adopt_collection(platform, apply=False)
    assert (plan.adopted, plan.existing, plan.without_source, plan.outdated) == (3, 0, 1, 0)
    assert list(plan.problems) == [FRAMES[2].cog_key]
    assert plan.problems[FRAMES[2].cog_key].endswith("has no overviews; nothing to do: ls4 makes it again from its georef tif.")
    assert frame_rows(platform) == {}
    assert platform.instance.get_dynamic_partitions("frames/Travis") == []

    report = adopt_collection(platform)
    assert (report.adopted, report.without_source, len(report.problems)) == (3, 1, 1)
    good = [FRAMES[0], FRAMES[1], FRAMES[3]]
    assert list(frame_rows(platform)) == [frame.id for frame in good]
    assert materialized_partitions(platform) == [frame.partition for frame in good]
    event = platform.instance.get_latest_materialization_event(dg.AssetKey(["Travis", "cog"]))
    assert event and event.asset_materialization
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert metadata["dimensions"] == "700 x 700"
    assert metadata["link"] == f"http://maps.test/archive/{FRAMES[3].cog_key}"
    assert metadata["size"] == format_size(len(cogs["good"]))

    # The usual sensor publishes index and map; no other run starts for the adopted frames.
    assert [run.success for run in platform.rebuild()] == [True]
    rows = {row["location"]: row for row in platform.rows(f"SELECT *, ST_Area(geom) AS area FROM {TABLE} ORDER BY oid")}
    assert len(rows) == 3
    first = rows[f"/vsis3/{platform.storage.bucket}/{FRAMES[0].cog_key}"]
    assert first["served_location"] == platform.storage.gdal_path(FRAMES[0].cog_key)
    assert str(first["dl_orig"]).endswith("/scanned/02-08-60_6-101.TIF")
    assert str(first["acquired"]) == "1960-02-08"
    assert 0.5 * 700**2 < float(str(first["area"])) < 0.65 * 700**2
    assert TABLE in platform.storage.read(COLLECTION.map_key).decode()
    assert platform.storage.head(COLLECTION.tile_index_key("bw", "_idx.zip"))

    # The sensor queues only the frame that could not be adopted.
    assert [run.success for run in platform.ingest()] == [True]
    assert platform.state(KEYS[0]) == platform.state(KEYS[2]) == ("done", None)
    assert [frame for frame in FRAMES if stored_products(platform, frame) != before[frame]] == [FRAMES[2]]
    assert [run.success for run in platform.rebuild()] == [True]
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 4}]
    text = "\n".join(format_status(collect(platform.settings)))
    assert "3 dropped: 3 done, 0 waiting, 0 rejected; 4 on the map (1 of them adopted without a georef tif)" in text


def test_a_second_adoption_changes_nothing(platform: Platform, cogs: dict[str, bytes], tmp_path: Path) -> None:
    drop_archive(platform, cogs, tmp_path)
    adopt_collection(platform)
    rows = frame_rows(platform)
    again = adopt_collection(platform)
    assert (again.adopted, again.existing, len(again.problems)) == (0, 3, 1)
    assert frame_rows(platform) == rows
    platform.drop(FRAMES[3].cog_key, cogs["good"])
    assert adopt_collection(platform).adopted == 1
    assert frame_rows(platform)[FRAMES[3].id]["revision"] == 2
    platform.storage.delete(FRAMES[3].cog_key)
    platform.storage.delete(FRAMES[0].cog_key)
    reports = [adopt_collection(platform, apply=False), adopt_collection(platform), adopt_collection(platform)]
    assert [report.missing_cogs for report in reports] == [1, 1, 0]
    assert {id_: row["deleted"] for id_, row in frame_rows(platform).items()} == {
        FRAMES[0].id: False, FRAMES[1].id: False, FRAMES[3].id: True,
    }  # fmt: skip
    assert sorted(platform.instance.get_dynamic_partitions("frames/Travis")) == [frame.partition for frame in FRAMES[:2]]


def test_tifs_dropped_replaced_or_deleted_after_an_adoption_are_processed(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path
) -> None:
    for frame, key in zip(FRAMES[:2], KEYS, strict=False):
        platform.drop(key, georef_tif(tmp_path))
        platform.drop(frame.cog_key, cogs["good"])
    adopt_collection(platform)
    platform.rebuild()
    assert platform.ingest() == []

    platform.drop(KEYS[2], georef_tif(tmp_path, seed=8))
    assert [run.success for run in platform.settle()] == [True, True]
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 3}]

    platform.drop(KEYS[0], georef_tif(tmp_path, seed=9))
    assert [run.success for run in platform.settle()] == [True, True]
    row = frame_rows(platform)[FRAMES[0].id]
    assert (row["width"], row["height"]) == (320, 300)
    # The key of the adopted COG is not overwritten: a warm map server still has it open.
    assert row["served_key"] != FRAMES[0].cog_key
    assert frame_rows(platform)[FRAMES[1].id]["served_key"] == FRAMES[1].cog_key

    platform.storage.delete(KEYS[1])
    platform.settle()
    assert platform.storage.head(FRAMES[1].cog_key) is None
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 2}]


def test_materializing_an_adopted_frame_makes_all_products(platform: Platform, cogs: dict[str, bytes], tmp_path: Path) -> None:
    platform.drop(KEYS[0], georef_tif(tmp_path))
    platform.drop(FRAMES[0].cog_key, cogs["good"])
    platform.drop(FRAMES[3].cog_key, cogs["good"])
    adopt_collection(platform)
    selection = [keys.product("Travis", step) for step in STEPS]
    assert platform.run(selection, partition_key=FRAMES[0].partition).success
    products = frame_rows(platform)[FRAMES[0].id]["products"]
    assert isinstance(products, dict) and set(products) == set(STEPS)
    assert len({(product["content"], product["made_by"]) for product in products.values()}) == 1
    assert platform.state(KEYS[0]) == ("done", None)
    # A frame without a georef tif cannot be made again; its COG stays.
    assert not platform.run(selection, partition_key=FRAMES[3].partition).success
    assert platform.storage.read(FRAMES[3].cog_key) == cogs["good"]
    assert not frame_rows(platform)[FRAMES[3].id]["deleted"]


def test_materializing_one_product_of_an_adopted_frame_brings_the_others(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path
) -> None:
    platform.drop(KEYS[0], georef_tif(tmp_path))
    platform.drop(FRAMES[0].cog_key, cogs["good"])
    adopt_collection(platform)
    assert platform.run([keys.product("Travis", "cog")], partition_key=FRAMES[0].partition).success
    assert all(run.success for run in platform.ingest())
    assert platform.state(KEYS[0]) == ("done", None)
    products = frame_rows(platform)[FRAMES[0].id]["products"]
    assert isinstance(products, dict) and set(products) == set(STEPS)


def test_a_cog_older_than_its_tif_is_served_until_it_is_made_again(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path
) -> None:
    platform.drop(FRAMES[0].cog_key, cogs["good"])
    platform.drop(KEYS[0], georef_tif(tmp_path))
    assert adopt_collection(platform, apply=False, ignore_times=True).outdated == 0
    report = adopt_collection(platform)
    assert (report.adopted, report.outdated) == (1, 1)
    assert [run.success for run in platform.ingest()] == [True]
    assert frame_rows(platform)[FRAMES[0].id]["width"] == 320


def test_a_cog_that_cannot_be_adopted_is_listed_with_reason_and_fix(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path
) -> None:
    misnamed = f"{FOLDER}/cog/02-0860_6-111.tif"
    upper = f"{FOLDER}/cog/02-08-60_6-112.TIF"
    for key, data in (
        (misnamed, cogs["good"]), (upper, cogs["good"]), (FRAMES[0].cog_key, cogs["flat"]),
        (FRAMES[1].cog_key, cogs["color"]), (FRAMES[2].cog_key, cogs["good"][:20_000]),
    ):  # fmt: skip
        platform.drop(key, data)
    for suffix in ("tif", "TIF"):
        platform.drop(KEYS[3].replace(".tif", f".{suffix}"), georef_tif(tmp_path))
    platform.drop(FRAMES[3].cog_key, cogs["good"])
    report = adopt_collection(platform)
    assert report.adopted == 0
    assert set(report.problems) == {misnamed, upper, *(frame.cog_key for frame in FRAMES)}
    assert "is not a valid name for a frame" in report.problems[misnamed]
    assert "rename it to that, and adopt again." in report.problems[upper]
    assert f"has no overviews; {ADVICE} {KEYS[0]}, and ls4 makes it again." in report.problems[FRAMES[0].cog_key]
    assert (
        f"has 3 band(s) of uint8; a COG under bw/ has 1 of uint8 without a palette; {ADVICE}"
        in report.problems[FRAMES[1].cog_key]
    )
    assert "is truncated" in report.problems[FRAMES[2].cog_key]
    assert "remove the other, and adopt again." in report.problems[FRAMES[3].cog_key]
    assert platform.rows("SELECT name FROM ls4.collection") == []


def test_a_mission_with_both_film_types_is_one_collection(platform: Platform, cogs: dict[str, bytes]) -> None:
    platform.drop(FRAMES[0].cog_key, cogs["good"])
    platform.drop(FRAMES[0].cog_key.replace("bw/", "nc/"), cogs["color"])
    assert adopt_collection(platform).adopted == 2
    platform.rebuild()
    assert platform.rows(f"SELECT band FROM {TABLE} ORDER BY band") == [{"band": "bw"}, {"band": "nc"}]
    assert platform.ingest() == []
    assert platform.rebuild() == []


def test_partitions_are_added_in_sorted_order(platform: Platform, cogs: dict[str, bytes]) -> None:
    """A range in the Dagster UI follows the order in which partitions were added."""
    for number in (40, 3, 17, 25, 8):
        platform.drop(f"{FOLDER}/cog/02-08-60_6-1{number:02}.tif", cogs["small"])
    adopt_collection(platform)
    partitions = list(platform.instance.get_dynamic_partitions("frames/Travis"))
    assert partitions == sorted(partitions)
    assert len(partitions) == 5


def test_adoption_resumes_after_a_kill(platform: Platform, cogs: dict[str, bytes]) -> None:
    """The process is killed when some frames have rows and others at most events; a second adoption completes them."""
    for number in range(1100):
        platform.drop(f"{FOLDER}/cog/02-08-60_{number // 100}-{number % 100:02}.tif", cogs["small"])
    command = [sys.executable, "-c", "from ls4_assets.cli.main import main; main()", "adopt", "--apply"]
    child = subprocess.Popen(command, env=os.environ | build_environment(platform), start_new_session=True)
    while not platform.rows("SELECT FROM ls4.frame LIMIT 1") and child.poll() is None:
        time.sleep(0.03)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = len(frame_rows(platform))
    assert 0 < before < 1100, "the process was killed too early or too late for this test"
    report = adopt_collection(platform)
    assert (report.existing, report.adopted) == (before, 1100 - before)
    assert len(frame_rows(platform)) == 1100
    assert len(materialized_partitions(platform)) == 1100


def test_scans_pause_during_an_adoption(platform: Platform, cogs: dict[str, bytes], tmp_path: Path) -> None:
    """A scan during an adoption queued every tif whose COG had no row yet, and thousands of frames were made again."""
    drop_archive(platform, cogs, tmp_path)
    with scans_paused(platform.settings):
        assert platform.ingest() == []
        assert platform.rows("SELECT * FROM ls4.source") == []
    platform.ingest()
    assert len(platform.rows("SELECT * FROM ls4.source")) == 3


def test_the_command_plans_and_applies(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_archive(platform, cogs, tmp_path)
    platform.drop("bw/Traviss/USDA_1958/frames/cog/02-08-60_6-101.tif", cogs["good"])
    for name, value in build_environment(platform).items():
        monkeypatch.setenv(name, value)
    runner = CliRunner()
    plan = runner.invoke(main, ["adopt"])
    assert plan.exit_code == 0, plan.output
    assert "skipped: bw/Traviss/USDA_1958/frames/: 'Traviss' is not a county" in plan.output
    assert "[1/1] Travis_USDA_1958_frames: 3 to adopt, 0 already recorded, 1 not adoptable" in plan.output
    assert "1 have no georef tif" in plan.output
    assert "--apply carries it out" in plan.output
    assert frame_rows(platform) == {}
    result = runner.invoke(main, ["adopt", FOLDER, "--apply"])
    assert result.exit_code == 0, result.output
    assert "3 adopted, 0 already recorded, 1 not adoptable" in result.output
    assert len(frame_rows(platform)) == 3
    unknown = runner.invoke(main, ["adopt", "bw/Traviss/USDA_1958/frames"])
    assert unknown.exit_code == 1
    assert "did you mean Travis?" in unknown.output


@pytest.fixture
def legacy(cluster: Cluster, platform: Platform) -> Iterator[Callable[[str], None]]:
    """Return a function that runs SQL in the index database as a superuser. Its tables and roles are dropped at the end."""
    url = make_url(cluster.admin_url).set(drivername="postgresql+psycopg2", database="ls4")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")

    def execute(statements: str) -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(statements)

    execute("DROP ROLE IF EXISTS legacy; DROP ROLE IF EXISTS reader; CREATE ROLE legacy; CREATE ROLE reader")
    execute("GRANT CREATE, USAGE ON SCHEMA public TO legacy; GRANT USAGE ON SCHEMA public TO reader")
    yield execute
    execute(f"DROP TABLE IF EXISTS public.{TABLE} CASCADE")
    execute("DROP OWNED BY legacy; DROP OWNED BY reader; DROP ROLE legacy; DROP ROLE reader")
    engine.dispose()


def make_legacy_table(legacy: Callable[[str], None], *, readable: bool = True) -> None:
    """Create a table as pandas and geoalchemy made it: no key, no coordinate system, bounding boxes, a row without a COG."""
    legacy(f"""
        SET ROLE legacy;
        CREATE TABLE public.{TABLE} (index bigint, oid bigint, location text, src_srs text, date text, roll text, frame_num text,
            dl_orig text, dl_georef text, dl_index text, geom geometry(Polygon));
        GRANT SELECT ON public.{TABLE} TO reader{", ls4" if readable else ""};
        RESET ROLE
    """)
    for oid, stem in enumerate([*(frame.stem for frame in FRAMES), "02-08-60_6-199"]):
        box = f"ST_MakeEnvelope({-10880000 + oid}, 3539300, {-10879300 + oid}, 3540000)"
        legacy(f"""
            INSERT INTO public.{TABLE} VALUES ({oid}, {oid}, '/vsis3/tnris-ls4/{FOLDER}/cog/{stem}.tif', 'EPSG:3857', '02-08-60',
            '6', '{stem[-3:]}', 'https://old.test/scan', 'https://old.test/cog', 'https://old.test/idx', {box})
        """)


def test_a_legacy_table_is_replaced_and_every_frame_stays_on_the_map(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path, legacy: Callable[[str], None]
) -> None:
    drop_archive(platform, cogs, tmp_path)
    make_legacy_table(legacy)
    plan = adopt_collection(platform, apply=False)
    assert (plan.legacy_rows, plan.legacy_rows_dropped, plan.new_outlines) == (5, 1, 3)
    columns = platform.rows(f"SELECT * FROM {TABLE} LIMIT 1")[0]
    assert "served_location" not in columns

    adopt_collection(platform)
    rows = {str(row["location"]): row for row in platform.rows(f"SELECT *, ST_SRID(geom) AS srid FROM {TABLE} ORDER BY oid")}
    assert list(rows) == [f"/vsis3/ls4/{frame.cog_key}" for frame in FRAMES]
    assert {row["srid"] for row in rows.values()} == {3857}
    assert rows[f"/vsis3/ls4/{FRAMES[2].cog_key}"]["dl_orig"] == "https://old.test/scan"
    assert rows[f"/vsis3/ls4/{FRAMES[2].cog_key}"]["served_location"] == platform.storage.gdal_path(FRAMES[2].cog_key)
    for role in ("mapserver", "reader", "legacy"):
        privilege = platform.rows(f"SELECT has_table_privilege('{role}', 'public.{TABLE}', 'SELECT') AS can_read")
        assert privilege == [{"can_read": True}], role
    assert platform.rows(f"SELECT tableowner FROM pg_tables WHERE tablename = '{TABLE}'") == [{"tableowner": "ls4"}]
    assert {
        row["schema"] for row in platform.rows(f"SELECT schemaname AS schema FROM pg_indexes WHERE tablename = '{TABLE}'")
    } == {"public"}

    assert [run.success for run in platform.settle()] == [True, True]
    final = platform.rows(f"SELECT location, dl_orig, profile_hash, ST_Area(geom) AS area FROM {TABLE} ORDER BY oid")
    assert [row["location"] for row in final] == list(rows)
    assert all(str(row["dl_orig"]).startswith("http://maps.test/archive/") for row in final)
    assert "legacy" not in {row["profile_hash"] for row in final}
    assert float(str(final[0]["area"])) < 0.65 * 700**2
    assert adopt_collection(platform).legacy_rows is None


def test_the_audits_ignore_rows_kept_from_the_legacy_table(
    platform: Platform, cogs: dict[str, bytes], legacy: Callable[[str], None]
) -> None:
    """After an adoption with a COG that cannot be adopted, the checks of index and archive failed forever."""
    platform.drop(FRAMES[0].cog_key, cogs["good"])
    platform.drop(FRAMES[1].cog_key, cogs["flat"])
    make_legacy_table(legacy)
    adopt_collection(platform)
    assert [run.success for run in platform.settle()] == [True]
    with platform.database.connect() as connection:
        audits = (
            audit_collection(connection, platform.storage, COLLECTION),
            audit_archive(connection, platform.settings.profiles),
        )
    assert [audit.errors for audit in audits] == [[], []]
    assert [(audit.counts["rows"], audit.counts["legacy_rows"]) for audit in audits] == [(1, 1), (1, 1)]


def test_a_legacy_table_that_cannot_be_replaced_stays_and_the_error_has_the_fix(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path, legacy: Callable[[str], None]
) -> None:
    drop_archive(platform, cogs, tmp_path)
    make_legacy_table(legacy, readable=False)
    ref = platform.instance.get_ref()
    (failure,) = adopt(platform.settings, [COLLECTION], ref)
    assert (
        isinstance(failure, tuple)
        and f"as a superuser run ALTER TABLE public.{TABLE} OWNER TO ls4, and adopt again." in failure[1]
    )
    legacy(f"GRANT SELECT ON public.{TABLE} TO ls4; CREATE VIEW public.of_others AS SELECT oid FROM public.{TABLE}")
    (failure,) = adopt(platform.settings, [COLLECTION], ref)
    assert isinstance(failure, tuple) and "drop what depends on it (a view?)" in failure[1]
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 5}]
    assert frame_rows(platform) == {}
    assert platform.rows(f"SELECT to_regclass('ls4.{TABLE}') AS it") == [{"it": None}]
    legacy("DROP VIEW public.of_others")
    assert adopt_collection(platform).adopted == 3


def test_readers_see_the_legacy_table_until_the_new_one_is_filled(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path, legacy: Callable[[str], None]
) -> None:
    drop_archive(platform, cogs, tmp_path)
    make_legacy_table(legacy)
    with platform.database.connect() as reader:
        # A map request in progress locks the table, so the replacement waits for it.
        assert reader.scalar(text(f"SELECT count(*) FROM {TABLE}")) == 5
        (failure,) = adopt(platform.settings, [COLLECTION], platform.instance.get_ref())
        assert isinstance(failure, tuple) and "wait until the query that holds it has finished" in failure[1]
        assert reader.scalar(text(f"SELECT count(*) FROM {TABLE}")) == 5
    assert adopt_collection(platform).adopted == 3
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 4}]


def test_a_legacy_collection_stays_if_no_cog_can_be_adopted(
    platform: Platform, cogs: dict[str, bytes], legacy: Callable[[str], None]
) -> None:
    """Table and mapfile of a collection in which ls4 has no frame keep serving."""
    platform.drop(FRAMES[0].cog_key, cogs["flat"])
    platform.drop(COLLECTION.map_key, b"the legacy mapfile")
    make_legacy_table(legacy)
    report = adopt_collection(platform)
    assert (report.adopted, len(report.problems)) == (0, 1)
    assert platform.settle() == []
    assert platform.storage.read(COLLECTION.map_key) == b"the legacy mapfile"
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 5}]


def test_a_rebuild_leaves_a_foreign_table_and_the_error_has_the_fix(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path, legacy: Callable[[str], None]
) -> None:
    """A foreign table caused a bare database error, or its rows were mixed with those of ls4."""
    make_legacy_table(legacy)
    platform.drop(KEYS[0], georef_tif(tmp_path))
    assert [run.success for run in platform.ingest()] == [True]
    (run,) = platform.rebuild()
    assert not run.success
    failure = str(run.get_step_failure_events())
    assert f"was not created by ls4, which leaves it unchanged; adopt it with `ls4 adopt {FOLDER} --apply`." in failure
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 5}]
    result = CliRunner().invoke(main, ["adopt", FOLDER, "--apply"], env=build_environment(platform))
    assert result.exit_code == 0, result.output
    platform.skip_waits()
    assert [run.success for run in platform.rebuild()] == [True]
    assert platform.rows(f"SELECT location FROM {TABLE}") == [{"location": f"/vsis3/ls4/{FRAMES[0].cog_key}"}]
