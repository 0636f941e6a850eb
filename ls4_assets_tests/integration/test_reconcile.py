"""Bucket, database and Dagster compared both ways: whatever is taken out of step is found, told, and mended by --apply."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from affine import Affine
from click.testing import CliRunner

from ls4_assets.cli.main import main
from ls4_assets.domain.names import Collection
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.reconcile.model import Kind
from ls4_assets.operations.reconcile.run import Reconciler, Report
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401

FOLDER = "bw/Travis/USDA_1958/frames"
KEYS = [f"{FOLDER}/georef/02-08-60_6-{number}.tif" for number in range(101, 104)]
FRAMES = [frame_of(key) for key in KEYS]
FIRST = FRAMES[0]
OF = FIRST.collection
TABLE = OF.table


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Three frames on the map; every test leaves it in step."""
    folder = tmp_path_factory.mktemp("reconcile")
    with running_platform(cluster, folder) as running:
        fill(running, folder)
        yield running


def fill(platform: Platform, folder: Path) -> None:
    for number, key in enumerate(KEYS):
        place = Affine(1, 0, WEST + 250 * number, 0, -1, NORTH)
        platform.drop(key, write_tif(folder / "drop.tif", photograph(300, 320, seed=number), transform=place))
    platform.settle()
    platform.rebuild()


def reconciled(platform: Platform, *names: str, apply: bool = False, delete_many: bool = False) -> list[Report]:
    """Those that are out of step; what was just put may be an orphan."""
    with_grace = Reconciler(platform.archive, platform.instance, apply, delete_many, timedelta(0))
    return [report for report in with_grace.run(names) if not report.in_step]


def found(platform: Platform, **options: bool) -> list[tuple[Kind, str]]:
    return [(action.kind, action.target) for report in reconciled(platform, **options) for action in report.actions]


def mended(platform: Platform, *kinds: Kind) -> list[str]:
    """Plan, apply, let the sensors do their work, and be in step; returns the targets."""
    planned = found(platform)
    assert {kind for kind, _ in planned} == set(kinds)
    assert found(platform, apply=True) == planned
    platform.settle()
    platform.rebuild()
    assert reconciled(platform) == []
    return [target for _, target in planned]


def execute(platform: Platform, statement: str) -> None:
    with platform.database.begin() as connection:
        connection.exec_driver_sql(statement)


def shown(platform: Platform) -> list[object]:
    return [row["location"] for row in platform.rows(f"SELECT location FROM {TABLE} ORDER BY location")]


def test_an_archive_in_step_has_nothing_to_mend_and_what_expired_is_not_missed(platform: Platform) -> None:
    assert reconciled(platform) == []
    for frame in FRAMES:
        platform.storage.delete(frame.deflate_key)
        platform.storage.delete(frame.overviews_key)
    assert reconciled(platform) == []


def test_a_table_that_was_dropped_comes_back_whole(platform: Platform) -> None:
    before = shown(platform)
    version = platform.rows("SELECT index_revision AS v FROM ls4.collection")[0]["v"]
    execute(platform, f"DROP TABLE public.{TABLE}")
    assert mended(platform, Kind.INDEX) == [TABLE]
    assert shown(platform) == before
    row = platform.rows("SELECT index_revision AS v, frames FROM ls4.collection")[0]
    assert row["frames"] == 3
    assert int(str(row["v"])) > int(str(version))


@pytest.mark.parametrize(
    "damage",
    [
        f"DELETE FROM public.{TABLE} WHERE frame_num = '101'",
        f"TRUNCATE public.{TABLE}",
        f"UPDATE public.{TABLE} SET served_location = '/elsewhere/x.tif' WHERE frame_num = '102'",
        f"INSERT INTO public.{TABLE} (location, src_srs, band, served_location, source_version, profile_hash, geom) "
        f"SELECT replace(location, '6-101', '6-199'), src_srs, band, served_location, '', '', geom FROM public.{TABLE} LIMIT 1",
    ],
)
def test_a_table_that_does_not_show_the_frames_is_written_anew(platform: Platform, damage: str) -> None:
    before = platform.rows(f"SELECT location, served_location FROM {TABLE} ORDER BY location")
    execute(platform, damage)
    assert mended(platform, Kind.INDEX) == [TABLE]
    assert platform.rows(f"SELECT location, served_location FROM {TABLE} ORDER BY location") == before
    assert platform.rows("SELECT frames FROM ls4.collection") == [{"frames": 3}]


def test_a_shapefile_of_fewer_frames_and_a_torn_mapfile_are_written_anew(platform: Platform) -> None:
    shx = OF.tile_index_key("bw", ".shx")
    whole, before = platform.storage.read(OF.map_key), platform.storage.read(shx)
    platform.storage.put(shx, before[:-8])
    platform.storage.put(OF.map_key, whole[: len(whole) // 2])
    platform.storage.put(OF.map_document_key(".tilejson"), b'{"tilejson": ')
    mended(platform, Kind.FILES, Kind.MAP)
    assert (platform.storage.read(OF.map_key), platform.storage.read(shx)) == (whole, before)


def test_tifs_that_no_look_saw_and_ones_that_are_gone_are_looked_at(platform: Platform) -> None:
    gone = f"{FOLDER}/georef/02-08-60_6-180.tif"
    execute(platform, f"DELETE FROM ls4.source WHERE key = '{KEYS[0]}'")
    execute(platform, f"INSERT INTO ls4.source (key, state, version, size) VALUES ('{gone}', 'done', 'v', 1)")
    assert mended(platform, Kind.LOOK) == [KEYS[0], gone]
    assert platform.state(KEYS[0]) == ("done", None)
    assert platform.state(gone) == ("deleted", None)


def lay_orphans(platform: Platform) -> list[str]:
    """What a dead run left of a frame whose tif was deleted."""
    left = frame_of(f"{FOLDER}/georef/02-08-60_6-188.tif")
    execute(platform, f"""
        INSERT INTO ls4.source (key, state, version, size, frame, shard, collection)
          VALUES ('{FOLDER}/georef/{left.stem}.tif', 'deleted', 'v', 1, '{left.id}', 'Travis', '{OF.name}') ON CONFLICT DO NOTHING
    """)  # fmt: skip
    keys = [left.cog_key, left.deflate_key, left.overviews_key, left.thumbnail_key, f"{left.served_folder}a-b.tif"]
    for key in keys:
        platform.drop(key, b"x")
    return keys


def test_orphans_go_and_cogs_of_unknown_frames_stay(platform: Platform) -> None:
    stranger = f"{FOLDER}/cog/02-08-60_6-177.tif"
    others = [f"derived/{OF.name}/stac/collection.json", f"{FOLDER}/georef/notes.txt"]
    for key in (stranger, *others):
        platform.drop(key, b"x")
    orphans = lay_orphans(platform)
    (report,) = reconciled(platform)
    assert {one.target for one in report.actions if one.kind == Kind.UNKNOWN} == {stranger}
    assert {one.target for one in report.actions if one.kind == Kind.REMOVE} == set(orphans)
    reconciled(platform, apply=True)
    assert [key for key in orphans if platform.storage.head(key)] == []
    assert all(platform.storage.head(key) for key in (stranger, *others, *(frame.cog_key for frame in FRAMES)))
    assert [one.actions[0].target for one in reconciled(platform)] == [stranger]
    platform.storage.delete(stranger)


def test_what_was_put_a_moment_ago_is_no_orphan(platform: Platform) -> None:
    keys = lay_orphans(platform)
    assert [report for report in Reconciler(platform.archive, platform.instance, True).run() if not report.in_step] == []
    assert all(platform.storage.head(key) for key in keys)
    reconciled(platform, apply=True)


def test_what_the_map_reads_stays_until_the_index_changes_over(platform: Platform, tmp_path: Path) -> None:
    """A frame was replaced twice, its rebuild waited, and the COG that the map still read was deleted as an orphan."""
    key, frame = KEYS[2], FRAMES[2]
    for seed, follow in ((21, platform.settle), (22, platform.look)):
        platform.drop(key, write_tif(tmp_path / "new.tif", photograph(300, 320, seed=seed)))
        follow()
    (row,) = platform.rows(f"SELECT served_location FROM {TABLE} WHERE location LIKE :key", key=f"%{frame.cog_key}")
    on_map = Path(str(row["served_location"]))
    made = platform.rows("SELECT served_key FROM ls4.frame WHERE id = :id", id=frame.id)[0]["served_key"]
    assert on_map.parts[-6:-1] == tuple(frame.served_folder.split("/")[:-1]) and on_map.name != Path(str(made)).name
    assert found(platform, apply=True) == []
    assert on_map.exists()
    platform.rebuild()
    assert reconciled(platform) == []


def test_an_adopted_frame_whose_only_cog_is_gone_leaves_the_map(platform: Platform) -> None:
    alone = frame_of(f"{FOLDER}/georef/02-08-60_6-189.tif")
    execute(platform, f"""
        INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, served_key)
          VALUES ('{alone.id}', 'Travis', '{OF.name}', '{alone.partition}', '{alone.cog_key}', 'v', '', '{alone.cog_key}')
    """)  # fmt: skip
    platform.instance.add_dynamic_partitions("frames/Travis", [alone.partition])
    assert mended(platform, Kind.WITHDRAW) == [alone.id]
    assert alone.partition not in platform.instance.get_dynamic_partitions("frames/Travis")
    assert len(shown(platform)) == 3


def test_table_and_map_of_a_collection_that_is_gone_go(platform: Platform) -> None:
    """As when a database was restored from before its withdrawal; those of another hand stay."""
    gone = OF.table.replace("1958", "1930")
    execute(platform, f"CREATE TABLE public.{gone} (LIKE public.{TABLE} INCLUDING ALL)")
    execute(platform, "CREATE TABLE public.lands_of_others_frames (location text)")
    theirs = ["lands_of_others_frames.map", "footprint.html", "nobodys_frames.tilejson"]
    for name in (f"{gone}.map", *theirs):
        platform.drop(f"mapfiles/{name}", platform.storage.read(OF.map_key) if name.endswith("map") else b"x")
    (report,) = reconciled(platform, apply=True)
    assert [(one.kind, one.target) for one in report.actions] == [
        (Kind.DROP, gone), (Kind.REMOVE, f"mapfiles/{gone}.map"),
    ]  # fmt: skip
    assert reconciled(platform) == []
    assert all(platform.storage.head(f"mapfiles/{name}") for name in theirs)
    assert platform.rows(f"SELECT to_regclass('public.{gone}') AS it") == [{"it": None}]
    execute(platform, "DROP TABLE public.lands_of_others_frames")
    for name in theirs:
        platform.storage.delete(f"mapfiles/{name}")


def test_a_collection_that_comes_meanwhile_keeps_its_table(platform: Platform) -> None:
    """Its first frame was indexed while the others were compared, and then its table was dropped as that of no collection."""
    new = Collection("Travis", "USDA_1930", "frames")
    running = Reconciler(platform.archive, platform.instance, apply=True).run()
    next(running)
    row = f"('{new.name}', 'Travis', '{new.partition}', '{new.table}')"
    execute(platform, f"INSERT INTO ls4.collection (name, shard, partition, table_name) VALUES {row}")
    execute(platform, f"CREATE TABLE public.{new.table} (LIKE public.{TABLE} INCLUDING ALL)")
    try:
        assert [report for report in running if not report.in_step] == []
        assert platform.rows(f"SELECT to_regclass('public.{new.table}')::text AS it") == [{"it": new.table}]
    finally:
        execute(platform, f"DELETE FROM ls4.collection WHERE name = '{new.name}'")
        execute(platform, f"DROP TABLE IF EXISTS public.{new.table}")


def test_nothing_is_done_while_runs_work(platform: Platform) -> None:
    data = platform.storage.read(OF.map_key)
    platform.storage.delete(OF.map_key)
    execute(platform, f"UPDATE ls4.source SET state = 'requested' WHERE key = '{KEYS[1]}'")
    (report,) = reconciled(platform, apply=True)
    assert report.actions == []
    assert report.rejected == "runs are making frames of it; reconcile it when they are done."
    execute(platform, f"UPDATE ls4.source SET state = 'done' WHERE key = '{KEYS[1]}'")
    platform.drop(OF.map_key, data)


def command(platform: Platform, *arguments: str, **overrides: str) -> str:
    settings = {f"LS4_{name.upper()}": value for name, value in (platform.archive.overrides | overrides).items()}
    environment = settings | {"DAGSTER_HOME": str(platform.instance.root_directory)}
    return CliRunner().invoke(main, list(arguments), env=environment).output


def test_the_command_tells_the_plan_and_then_does_it(platform: Platform) -> None:
    platform.storage.delete(FIRST.cog_key)
    plan = command(platform, "reconcile")
    assert f"{OF.name}:\n    make 1 frames anew from their georef tifs\n        {FIRST.id} its COG is missing" in plan
    assert plan.endswith("1 collections, 0 in step.\nThis was the plan; --apply carries it out.\n")
    (line,) = command(platform, "reconcile", "--json").splitlines()
    assert json.loads(line)["actions"][0]["kind"] == "requeue"
    assert "follows by itself" in command(platform, "reconcile", TABLE.upper(), "--apply")
    platform.settle()
    assert command(platform, "reconcile") == "1 collections, 1 in step.\n"
    assert "`ls4 status` names those that there are" in command(platform, "reconcile", "Travis_USDA_1959_frames")
