"""Finished COGs taken over without any pixel work: those of lambda-s4, or of ls4 after it lost its database."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import rasterio
import rasterio.shutil
from click.testing import CliRunner
from sqlalchemy import create_engine, make_url, text

from ls4_assets.assets import keys
from ls4_assets.cli.main import main
from ls4_assets.db.audit import audit_archive, audit_collection
from ls4_assets.domain.names import STEPS, Frame
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.adopt.archive import adopt, scans_paused
from ls4_assets.operations.adopt.collection import Report
from ls4_assets.operations.status import collect, lines
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
    """A good COG, a small one, one in colour, and one without overviews."""
    folder = tmp_path_factory.mktemp("cogs")
    made = {}
    kinds = (("good", 1, 700, {}), ("small", 1, 64, {}), ("colour", 3, 700, {}), ("flat", 1, 700, {"overviews": "NONE"}))
    for name, bands, size, options in kinds:
        source = write_tif(folder / f"{name}-source.tif", photograph(size, size, bands), mask=rotated_rectangle(size, size))
        with gdal_env():
            rasterio.shutil.copy(source, folder / f"{name}.tif", driver="COG", **options)
        made[name] = (folder / f"{name}.tif").read_bytes()
    return made


def environment(platform: Platform) -> dict[str, str]:
    """What the `ls4` command needs to find this platform."""
    settings = {f"LS4_{name.upper()}": value for name, value in platform.archive.overrides.items()}
    return settings | {"DAGSTER_HOME": str(platform.instance.root_directory)}


def georef(folder: Path, seed: int = 7) -> bytes:
    return write_tif(folder / "georef.tif", photograph(300, 320, seed=seed)).read_bytes()


def adopted(platform: Platform, *, apply: bool = True, ignore_times: bool = False) -> Report:
    """Adopt the one collection; a sentence instead of a report fails the test."""
    ref = platform.instance.get_ref() if apply else None
    (report,) = adopt(platform.settings, [COLLECTION], ref, ignore_times=ignore_times)
    assert isinstance(report, Report), report
    return report


def frame_rows(platform: Platform) -> dict[str, dict[str, object]]:
    return {str(row["id"]): row for row in platform.rows("SELECT * FROM ls4.frame ORDER BY id")}


def materialized(platform: Platform) -> list[str]:
    return sorted(key for key, status in platform.partitions("Travis", "cog").items() if status == "MATERIALIZED")


def versions(platform: Platform, frame: Frame) -> list[object]:
    return [platform.storage.head(frame.product_key(step)) for step in STEPS]


def archive_of(platform: Platform, cogs: dict[str, bytes], folder: Path) -> None:
    """Four frames: three with their georef tifs, the last of these with a COG that is no good; the fourth is a COG alone."""
    platform.drop(f"{FOLDER}/scanned/02-08-60_6-101.TIF", b"the raw scan")
    for key in KEYS[:3]:
        platform.drop(key, georef(folder))
    for frame, kind in zip(FRAMES, ("good", "good", "flat", "good"), strict=True):
        platform.drop(frame.cog_key, cogs[kind])


def test_finished_cogs_get_index_and_map_without_pixel_work(
    any_platform: Platform, cogs: dict[str, bytes], tmp_path: Path
) -> None:
    platform = any_platform
    archive_of(platform, cogs, tmp_path)
    before = {frame: versions(platform, frame) for frame in FRAMES}

    plan = adopted(platform, apply=False)
    assert (plan.adopted, plan.known, plan.without_source, plan.outdated) == (3, 0, 1, 0)
    assert list(plan.problems) == [FRAMES[2].cog_key]
    assert plan.problems[FRAMES[2].cog_key].endswith("has no overviews; nothing to do: it is made anew from its georef tif.")
    assert frame_rows(platform) == {}
    assert platform.instance.get_dynamic_partitions("frames/Travis") == []

    report = adopted(platform)
    assert (report.adopted, report.without_source, len(report.problems)) == (3, 1, 1)
    good = [FRAMES[0], FRAMES[1], FRAMES[3]]
    assert list(frame_rows(platform)) == [frame.id for frame in good]
    assert materialized(platform) == [frame.partition for frame in good]
    event = platform.instance.get_latest_materialization_event(dg.AssetKey(["Travis", "cog"]))
    assert event and event.asset_materialization
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert metadata["dimensions"] == "700 x 700"
    assert metadata["link"] == f"http://maps.test/archive/{FRAMES[3].cog_key}"
    assert metadata["size"] == len(cogs["good"])

    # Index and map, by the sensor of every day; nothing else runs for the frames that were adopted.
    assert [run.success for run in platform.rebuild()] == [True]
    rows = {row["location"]: row for row in platform.rows(f"SELECT *, ST_Area(geom) AS area FROM {TABLE} ORDER BY oid")}
    assert len(rows) == 3
    first = rows[f"/vsis3/{platform.storage.bucket}/{FRAMES[0].cog_key}"]
    assert first["served_location"] == platform.storage.gdal_path(FRAMES[0].cog_key)
    assert str(first["dl_orig"]).endswith("/scanned/02-08-60_6-101.TIF")
    assert first["acquired"].isoformat() == "1960-02-08"
    assert 0.5 * 700**2 < float(str(first["area"])) < 0.65 * 700**2
    assert TABLE in platform.storage.read(COLLECTION.map_key).decode()
    assert platform.storage.head(COLLECTION.tile_index_key("bw", "_idx.zip"))

    # The sensor takes up the frame that could not be adopted, and that one only.
    assert [run.success for run in platform.look()] == [True]
    assert platform.state(KEYS[0]) == platform.state(KEYS[2]) == ("done", None)
    assert [frame for frame in FRAMES if versions(platform, frame) != before[frame]] == [FRAMES[2]]
    assert [run.success for run in platform.rebuild()] == [True]
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 4}]
    said = "\n".join(lines(collect(platform.settings)))
    assert "3 dropped: 3 done, 0 waiting, 0 failed; 4 on the map (1 of them adopted without a georef tif)" in said


def test_a_second_call_has_nothing_to_do(platform: Platform, cogs: dict[str, bytes], tmp_path: Path) -> None:
    archive_of(platform, cogs, tmp_path)
    adopted(platform)
    rows = frame_rows(platform)
    again = adopted(platform)
    assert (again.adopted, again.known, len(again.problems)) == (0, 3, 1)
    assert frame_rows(platform) == rows
    platform.drop(FRAMES[3].cog_key, cogs["good"])
    assert adopted(platform).adopted == 1
    assert frame_rows(platform)[FRAMES[3].id]["revision"] == 2
    platform.storage.delete(FRAMES[3].cog_key)
    platform.storage.delete(FRAMES[0].cog_key)
    assert (adopted(platform, apply=False).gone, adopted(platform).gone, adopted(platform).gone) == (1, 1, 0)
    assert {id_: row["deleted"] for id_, row in frame_rows(platform).items()} == {
        FRAMES[0].id: False, FRAMES[1].id: False, FRAMES[3].id: True,
    }  # fmt: skip
    assert sorted(platform.instance.get_dynamic_partitions("frames/Travis")) == [frame.partition for frame in FRAMES[:2]]


def test_a_later_drop_and_a_replaced_tif_work_as_ever(platform: Platform, cogs: dict[str, bytes], tmp_path: Path) -> None:
    for frame, key in zip(FRAMES[:2], KEYS, strict=False):
        platform.drop(key, georef(tmp_path))
        platform.drop(frame.cog_key, cogs["good"])
    adopted(platform)
    platform.rebuild()
    assert platform.look() == []

    platform.drop(KEYS[2], georef(tmp_path, seed=8))
    assert [run.success for run in platform.settle()] == [True, True]
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 3}]

    platform.drop(KEYS[0], georef(tmp_path, seed=9))
    assert [run.success for run in platform.settle()] == [True, True]
    row = frame_rows(platform)[FRAMES[0].id]
    assert (row["width"], row["height"]) == (320, 300)
    # A warm map server has the adopted COG open: its key is not written over while the map still reads it.
    assert row["served_key"] != FRAMES[0].cog_key
    assert frame_rows(platform)[FRAMES[1].id]["served_key"] == FRAMES[1].cog_key

    platform.storage.delete(KEYS[1])
    platform.settle()
    assert platform.storage.head(FRAMES[1].cog_key) is None
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 2}]


def test_a_person_makes_an_adopted_frame_anew(platform: Platform, cogs: dict[str, bytes], tmp_path: Path) -> None:
    platform.drop(KEYS[0], georef(tmp_path))
    platform.drop(FRAMES[0].cog_key, cogs["good"])
    platform.drop(FRAMES[3].cog_key, cogs["good"])
    adopted(platform)
    selection = [keys.product("Travis", step) for step in STEPS]
    assert platform.run(selection, partition_key=FRAMES[0].partition).success
    products = frame_rows(platform)[FRAMES[0].id]["products"]
    assert isinstance(products, dict) and set(products) == set(STEPS)
    assert len({(product["content"], product["made_by"]) for product in products.values()}) == 1
    assert platform.state(KEYS[0]) == ("done", None)
    # A COG alone cannot be made anew, and stays as it is.
    assert not platform.run(selection, partition_key=FRAMES[3].partition).success
    assert platform.storage.read(FRAMES[3].cog_key) == cogs["good"]
    assert not frame_rows(platform)[FRAMES[3].id]["deleted"]


def test_one_product_of_an_adopted_frame_brings_the_others(platform: Platform, cogs: dict[str, bytes], tmp_path: Path) -> None:
    platform.drop(KEYS[0], georef(tmp_path))
    platform.drop(FRAMES[0].cog_key, cogs["good"])
    adopted(platform)
    assert platform.run([keys.product("Travis", "cog")], partition_key=FRAMES[0].partition).success
    assert all(run.success for run in platform.look())
    assert platform.state(KEYS[0]) == ("done", None)
    products = frame_rows(platform)[FRAMES[0].id]["products"]
    assert isinstance(products, dict) and set(products) == set(STEPS)


def test_a_cog_older_than_its_tif_is_shown_and_made_anew(platform: Platform, cogs: dict[str, bytes], tmp_path: Path) -> None:
    platform.drop(FRAMES[0].cog_key, cogs["good"])
    platform.drop(KEYS[0], georef(tmp_path))
    assert adopted(platform, apply=False, ignore_times=True).outdated == 0
    report = adopted(platform)
    assert (report.adopted, report.outdated) == (1, 1)
    assert [run.success for run in platform.look()] == [True]
    assert frame_rows(platform)[FRAMES[0].id]["width"] == 320


def test_what_cannot_be_adopted_says_why_and_what_to_do(platform: Platform, cogs: dict[str, bytes], tmp_path: Path) -> None:
    misnamed = f"{FOLDER}/cog/02-0860_6-111.tif"
    upper = f"{FOLDER}/cog/02-08-60_6-112.TIF"
    for key, data in (
        (misnamed, cogs["good"]), (upper, cogs["good"]), (FRAMES[0].cog_key, cogs["flat"]),
        (FRAMES[1].cog_key, cogs["colour"]), (FRAMES[2].cog_key, cogs["good"][:20_000]),
    ):  # fmt: skip
        platform.drop(key, data)
    for suffix in ("tif", "TIF"):
        platform.drop(KEYS[3].replace(".tif", f".{suffix}"), georef(tmp_path))
    platform.drop(FRAMES[3].cog_key, cogs["good"])
    report = adopted(platform)
    assert report.adopted == 0
    assert set(report.problems) == {misnamed, upper, *(frame.cog_key for frame in FRAMES)}
    assert "is no name of a frame" in report.problems[misnamed]
    assert "rename it to that, and adopt again." in report.problems[upper]
    assert f"has no overviews; {ADVICE} {KEYS[0]}, and it is made anew." in report.problems[FRAMES[0].cog_key]
    assert (
        f"has 3 band(s) of uint8, and under bw/ a COG has 1 of uint8 without a palette; {ADVICE}"
        in report.problems[FRAMES[1].cog_key]
    )
    assert "is truncated" in report.problems[FRAMES[2].cog_key]
    assert "remove the other, and adopt again." in report.problems[FRAMES[3].cog_key]
    assert platform.rows("SELECT name FROM ls4.collection") == []


def test_a_mission_in_both_bands_is_adopted_as_one(platform: Platform, cogs: dict[str, bytes]) -> None:
    platform.drop(FRAMES[0].cog_key, cogs["good"])
    platform.drop(FRAMES[0].cog_key.replace("bw/", "nc/"), cogs["colour"])
    assert adopted(platform).adopted == 2
    platform.rebuild()
    assert platform.rows(f"SELECT band FROM {TABLE} ORDER BY band") == [{"band": "bw"}, {"band": "nc"}]
    assert platform.look() == []
    assert platform.rebuild() == []


def test_partitions_are_sorted_whatever_the_order_of_events(platform: Platform, cogs: dict[str, bytes]) -> None:
    """A range in the Dagster UI goes by the order in which partitions were added."""
    for number in (40, 3, 17, 25, 8):
        platform.drop(f"{FOLDER}/cog/02-08-60_6-1{number:02}.tif", cogs["small"])
    adopted(platform)
    listed = list(platform.instance.get_dynamic_partitions("frames/Travis"))
    assert listed == sorted(listed)
    assert len(listed) == 5


def test_a_kill_in_the_middle_loses_nothing(platform: Platform, cogs: dict[str, bytes]) -> None:
    """Killed when some frames have their rows, and others at most their events: a second call makes it whole."""
    for number in range(1100):
        platform.drop(f"{FOLDER}/cog/02-08-60_{number // 100}-{number % 100:02}.tif", cogs["small"])
    command = [sys.executable, "-c", "from ls4_assets.cli.main import main; main()", "adopt", "--apply"]
    child = subprocess.Popen(command, env=os.environ | environment(platform), start_new_session=True)
    while not platform.rows("SELECT FROM ls4.frame LIMIT 1") and child.poll() is None:
        time.sleep(0.03)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = len(frame_rows(platform))
    assert 0 < before < 1100, "killed too early or too late to show anything"
    report = adopted(platform)
    assert (report.known, report.adopted) == (before, 1100 - before)
    assert len(frame_rows(platform)) == 1100
    assert len(materialized(platform)) == 1100


def test_the_sensor_waits_while_an_archive_is_adopted(platform: Platform, cogs: dict[str, bytes], tmp_path: Path) -> None:
    """A look in between had queued every tif whose COG was not adopted yet, and thousands of frames were made anew."""
    archive_of(platform, cogs, tmp_path)
    with scans_paused(platform.settings):
        assert platform.look() == []
        assert platform.rows("SELECT * FROM ls4.source") == []
    platform.look()
    assert len(platform.rows("SELECT * FROM ls4.source")) == 3


def test_the_command_plans_and_applies(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_of(platform, cogs, tmp_path)
    platform.drop("bw/Traviss/USDA_1958/frames/cog/02-08-60_6-101.tif", cogs["good"])
    for name, value in environment(platform).items():
        monkeypatch.setenv(name, value)
    runner = CliRunner()
    plan = runner.invoke(main, ["adopt"])
    assert plan.exit_code == 0, plan.output
    assert "passed over: bw/Traviss/USDA_1958/frames/: 'Traviss' is no county" in plan.output
    assert "[1/1] Travis_USDA_1958_frames: 3 to adopt, 0 known already, 1 not acceptable" in plan.output
    assert "1 have no georef tif" in plan.output
    assert "--apply carries it out" in plan.output
    assert frame_rows(platform) == {}
    done = runner.invoke(main, ["adopt", FOLDER, "--apply"])
    assert done.exit_code == 0, done.output
    assert "3 adopted, 0 known already, 1 not acceptable" in done.output
    assert len(frame_rows(platform)) == 3
    wrong = runner.invoke(main, ["adopt", "bw/Traviss/USDA_1958/frames"])
    assert wrong.exit_code == 1
    assert "did you mean Travis?" in wrong.output


@pytest.fixture
def legacy(cluster: Cluster, platform: Platform) -> Iterator[Callable[[str], None]]:
    """Run SQL as the owner of legacy tables, in the database of the index; what it made goes at the end."""
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
    """As pandas and geoalchemy left it: no key, no coordinate system, boxes; one row of a COG that is gone since."""
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


def test_a_legacy_table_is_taken_over_and_no_frame_leaves_the_map(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path, legacy: Callable[[str], None]
) -> None:
    archive_of(platform, cogs, tmp_path)
    make_legacy_table(legacy)
    plan = adopted(platform, apply=False)
    assert (plan.legacy_rows, plan.lost, plan.outlined) == (5, 1, 3)
    columns = platform.rows(f"SELECT * FROM {TABLE} LIMIT 1")[0]
    assert "served_location" not in columns

    adopted(platform)
    rows = {str(row["location"]): row for row in platform.rows(f"SELECT *, ST_SRID(geom) AS srid FROM {TABLE} ORDER BY oid")}
    assert list(rows) == [f"/vsis3/ls4/{frame.cog_key}" for frame in FRAMES]
    assert {row["srid"] for row in rows.values()} == {3857}
    assert rows[f"/vsis3/ls4/{FRAMES[2].cog_key}"]["dl_orig"] == "https://old.test/scan"
    assert rows[f"/vsis3/ls4/{FRAMES[2].cog_key}"]["served_location"] == platform.storage.gdal_path(FRAMES[2].cog_key)
    for role in ("mapserver", "reader", "legacy"):
        granted = platform.rows(f"SELECT has_table_privilege('{role}', 'public.{TABLE}', 'SELECT') AS may_read")
        assert granted == [{"may_read": True}], role
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
    assert adopted(platform).legacy_rows is None


def test_the_sums_leave_out_what_was_kept_of_the_old_table(
    platform: Platform, cogs: dict[str, bytes], legacy: Callable[[str], None]
) -> None:
    """After an adoption with a COG that cannot be taken the checks of index and archive stayed red for ever."""
    platform.drop(FRAMES[0].cog_key, cogs["good"])
    platform.drop(FRAMES[1].cog_key, cogs["flat"])
    make_legacy_table(legacy)
    adopted(platform)
    assert [run.success for run in platform.settle()] == [True]
    with platform.database.connect() as connection:
        audits = (
            audit_collection(connection, platform.storage, COLLECTION),
            audit_archive(connection, platform.settings.profiles),
        )
    assert [audit.wrong for audit in audits] == [[], []]
    assert [(audit.counts["rows"], audit.counts["legacy_rows"]) for audit in audits] == [(1, 1), (1, 1)]


def test_a_table_that_cannot_be_taken_over_stays_and_says_what_to_do(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path, legacy: Callable[[str], None]
) -> None:
    archive_of(platform, cogs, tmp_path)
    make_legacy_table(legacy, readable=False)
    ref = platform.instance.get_ref()
    ((_, sentence),) = adopt(platform.settings, [COLLECTION], ref)
    assert f"as a superuser run ALTER TABLE public.{TABLE} OWNER TO ls4, and adopt again." in str(sentence)
    legacy(f"GRANT SELECT ON public.{TABLE} TO ls4; CREATE VIEW public.of_others AS SELECT oid FROM public.{TABLE}")
    ((_, sentence),) = adopt(platform.settings, [COLLECTION], ref)
    assert "drop what depends on it (a view?)" in str(sentence)
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 5}]
    assert frame_rows(platform) == {}
    assert platform.rows(f"SELECT to_regclass('ls4.{TABLE}') AS it") == [{"it": None}]
    legacy("DROP VIEW public.of_others")
    assert adopted(platform).adopted == 3


def test_readers_see_the_old_table_until_the_new_one_is_full(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path, legacy: Callable[[str], None]
) -> None:
    archive_of(platform, cogs, tmp_path)
    make_legacy_table(legacy)
    with platform.database.connect() as reader:
        # A map request that is under way holds its table: the change waits for it, and the other way round.
        assert reader.scalar(text(f"SELECT count(*) FROM {TABLE}")) == 5
        ((_, sentence),) = adopt(platform.settings, [COLLECTION], platform.instance.get_ref())
        assert "wait until whoever uses it for so long has finished" in str(sentence)
        assert reader.scalar(text(f"SELECT count(*) FROM {TABLE}")) == 5
    assert adopted(platform).adopted == 3
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 4}]


def test_nothing_is_withdrawn_where_nothing_can_be_adopted(
    platform: Platform, cogs: dict[str, bytes], legacy: Callable[[str], None]
) -> None:
    """A collection of which ls4 has nothing goes on being served by what was there."""
    platform.drop(FRAMES[0].cog_key, cogs["flat"])
    platform.drop(COLLECTION.map_key, b"the legacy mapfile")
    make_legacy_table(legacy)
    report = adopted(platform)
    assert (report.adopted, len(report.problems)) == (0, 1)
    assert platform.settle() == []
    assert platform.storage.read(COLLECTION.map_key) == b"the legacy mapfile"
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 5}]


def test_a_rebuild_leaves_a_table_of_another_hand_and_says_what_to_do(
    platform: Platform, cogs: dict[str, bytes], tmp_path: Path, legacy: Callable[[str], None]
) -> None:
    """Its rows were met with a bare error of the database, or mixed with ours."""
    make_legacy_table(legacy)
    platform.drop(KEYS[0], georef(tmp_path))
    assert [run.success for run in platform.look()] == [True]
    (run,) = platform.rebuild()
    assert not run.success
    told = str(run.get_step_failure_events())
    assert f"is not of ls4's making, and stays as it is; take it over by `ls4 adopt {FOLDER} --apply`." in told
    assert platform.rows(f"SELECT count(*) AS n FROM {TABLE}") == [{"n": 5}]
    done = CliRunner().invoke(main, ["adopt", FOLDER, "--apply"], env=environment(platform))
    assert done.exit_code == 0, done.output
    platform.skip_waits()
    assert [run.success for run in platform.rebuild()] == [True]
    assert platform.rows(f"SELECT location FROM {TABLE}") == [{"location": f"/vsis3/ls4/{FRAMES[0].cog_key}"}]
