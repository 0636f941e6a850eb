"""Reconciliation of bucket, database and Dagster: every difference is found, reported, and fixed by --apply."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from affine import Affine
from click.testing import CliRunner

from ls4_assets.cli.main import main
from ls4_assets.domain.names import Collection
from ls4_assets.domain.products import PRODUCTS
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.reconcile.model import ActionKind
from ls4_assets.operations.reconcile.run import Reconciler, ReconcileReport
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401

FOLDER = "bw/Travis/USDA_1958/frames"
KEYS = [f"{FOLDER}/georef/02-08-60_6-{number}.tif" for number in range(101, 104)]
FRAMES = [frame_of(key) for key in KEYS]
FIRST = FRAMES[0]
COLLECTION = FIRST.collection
TABLE = COLLECTION.table


@pytest.fixture(scope="module")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Three frames on the map. Every test leaves the platform consistent."""
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


def reconcile(platform: Platform, *names: str, apply: bool = False, delete_many: bool = False) -> list[ReconcileReport]:
    """Return the reports of inconsistent collections. There is no grace period: a new object may be an orphan."""
    reconciler = Reconciler(platform.archive, platform.instance, apply, delete_many, timedelta(0))
    return [report for report in reconciler.run(names) if not report.is_consistent]


def plan_actions(platform: Platform, **options: bool) -> list[tuple[ActionKind, str]]:
    return [(action.kind, action.target) for report in reconcile(platform, **options) for action in report.actions]


def fix(platform: Platform, *kinds: ActionKind) -> list[str]:
    """Plan, apply, run the sensors, and assert that everything is consistent. Returns the targets."""
    planned = plan_actions(platform)
    assert {kind for kind, _ in planned} == set(kinds)
    assert plan_actions(platform, apply=True) == planned
    platform.settle()
    platform.rebuild()
    assert reconcile(platform) == []
    return [target for _, target in planned]


def execute(platform: Platform, statement: str) -> None:
    with platform.database.begin() as connection:
        connection.exec_driver_sql(statement)


def index_locations(platform: Platform) -> list[object]:
    return [row["location"] for row in platform.rows(f"SELECT location FROM {TABLE} ORDER BY location")]


def test_a_consistent_archive_needs_no_action_and_expired_intermediates_do_not_count(platform: Platform) -> None:
    assert reconcile(platform) == []
    for frame in FRAMES:
        platform.storage.delete(frame.deflate_key)
        platform.storage.delete(frame.overviews_key)
    assert reconcile(platform) == []


def test_a_dropped_table_is_restored_completely(platform: Platform) -> None:
    before = index_locations(platform)
    version = platform.rows("SELECT index_revision AS v FROM ls4.collection")[0]["v"]
    execute(platform, f"DROP TABLE public.{TABLE}")
    assert fix(platform, ActionKind.INDEX) == [TABLE]
    assert index_locations(platform) == before
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
def test_a_table_that_differs_from_the_frames_is_rewritten(platform: Platform, damage: str) -> None:
    before = platform.rows(f"SELECT location, served_location FROM {TABLE} ORDER BY location")
    execute(platform, damage)
    assert fix(platform, ActionKind.INDEX) == [TABLE]
    assert platform.rows(f"SELECT location, served_location FROM {TABLE} ORDER BY location") == before
    assert platform.rows("SELECT frames FROM ls4.collection") == [{"frames": 3}]


def test_an_incomplete_shapefile_and_a_damaged_mapfile_are_rewritten(platform: Platform) -> None:
    shx = COLLECTION.tile_index_key("bw", ".shx")
    mapfile, before = platform.storage.read(COLLECTION.map_key), platform.storage.read(shx)
    platform.storage.put(shx, before[:-8])
    platform.storage.put(COLLECTION.map_key, mapfile[: len(mapfile) // 2])
    platform.storage.put(COLLECTION.map_document_key(".tilejson"), b'{"tilejson": ')
    fix(platform, ActionKind.FILES, ActionKind.MAP)
    assert (platform.storage.read(COLLECTION.map_key), platform.storage.read(shx)) == (mapfile, before)


def test_unrecorded_and_missing_tifs_are_scanned_again(platform: Platform) -> None:
    gone = f"{FOLDER}/georef/02-08-60_6-180.tif"
    execute(platform, f"DELETE FROM ls4.source WHERE key = '{KEYS[0]}'")
    execute(platform, f"INSERT INTO ls4.source (key, state, version, size) VALUES ('{gone}', 'done', 'v', 1)")
    assert fix(platform, ActionKind.RESCAN) == [KEYS[0], gone]
    assert platform.state(KEYS[0]) == ("done", None)
    assert platform.state(gone) == ("deleted", None)


def drop_orphans(platform: Platform) -> list[str]:
    """Drop what a crashed run left of a frame whose tif was deleted. Returns the keys."""
    orphan = frame_of(f"{FOLDER}/georef/02-08-60_6-188.tif")
    execute(platform, f"""
        INSERT INTO ls4.source (key, state, version, size, frame, shard, collection)
          VALUES ('{FOLDER}/georef/{orphan.stem}.tif', 'deleted', 'v', 1, '{orphan.id}', 'Travis', '{COLLECTION.name}')
          ON CONFLICT DO NOTHING
    """)  # fmt: skip
    keys = [*(orphan.product_key(product.name) for product in PRODUCTS), f"{orphan.served_folder}a-b.tif"]
    for key in keys:
        platform.drop(key, b"x")
    return keys


def test_orphans_are_removed_and_unknown_cogs_stay(platform: Platform) -> None:
    unknown = f"{FOLDER}/cog/02-08-60_6-177.tif"
    others = [f"derived/{COLLECTION.name}/stac/collection.json", f"{FOLDER}/georef/notes.txt"]
    for key in (unknown, *others):
        platform.drop(key, b"x")
    orphans = drop_orphans(platform)
    (report,) = reconcile(platform)
    assert {action.target for action in report.actions if action.kind == ActionKind.UNKNOWN} == {unknown}
    assert {action.target for action in report.actions if action.kind == ActionKind.REMOVE} == set(orphans)
    reconcile(platform, apply=True)
    assert [key for key in orphans if platform.storage.head(key)] == []
    assert all(platform.storage.head(key) for key in (unknown, *others, *(frame.cog_key for frame in FRAMES)))
    assert [report.actions[0].target for report in reconcile(platform)] == [unknown]
    platform.storage.delete(unknown)


def test_a_recent_object_is_not_an_orphan(platform: Platform) -> None:
    keys = drop_orphans(platform)
    reports = list(Reconciler(platform.archive, platform.instance, apply=True).run())
    assert [report for report in reports if not report.is_consistent] == []
    assert all(platform.storage.head(key) for key in keys)
    reconcile(platform, apply=True)


def test_a_cog_that_the_map_reads_stays_until_the_index_is_rebuilt(platform: Platform, tmp_path: Path) -> None:
    """A frame was replaced twice before the rebuild, and the COG that the map still read was deleted as an orphan."""
    key, frame = KEYS[2], FRAMES[2]
    for seed, follow in ((21, platform.settle), (22, platform.ingest)):
        platform.drop(key, write_tif(tmp_path / "new.tif", photograph(300, 320, seed=seed)))
        follow()
    (row,) = platform.rows(f"SELECT served_location FROM {TABLE} WHERE location LIKE :key", key=f"%{frame.cog_key}")
    on_map = Path(str(row["served_location"]))
    newest = platform.rows("SELECT served_key FROM ls4.frame WHERE id = :id", id=frame.id)[0]["served_key"]
    assert on_map.parts[-6:-1] == tuple(frame.served_folder.split("/")[:-1]) and on_map.name != Path(str(newest)).name
    assert plan_actions(platform, apply=True) == []
    assert on_map.exists()
    platform.rebuild()
    assert reconcile(platform) == []


def test_an_adopted_frame_without_its_only_cog_is_withdrawn(platform: Platform) -> None:
    adopted = frame_of(f"{FOLDER}/georef/02-08-60_6-189.tif")
    execute(platform, f"""
        INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, served_key)
          VALUES ('{adopted.id}', 'Travis', '{COLLECTION.name}', '{adopted.partition}', '{adopted.cog_key}', 'v', '',
                  '{adopted.cog_key}')
    """)  # fmt: skip
    platform.instance.add_dynamic_partitions("frames/Travis", [adopted.partition])
    assert fix(platform, ActionKind.WITHDRAW) == [adopted.id]
    assert adopted.partition not in platform.instance.get_dynamic_partitions("frames/Travis")
    assert len(index_locations(platform)) == 3


def test_table_and_map_without_a_collection_are_removed(platform: Platform) -> None:
    """They remain when a database is restored from before a withdrawal. Tables and maps that ls4 does not own stay."""
    gone = COLLECTION.table.replace("1958", "1930")
    execute(platform, f"CREATE TABLE public.{gone} (LIKE public.{TABLE} INCLUDING ALL)")
    execute(platform, "CREATE TABLE public.foreign_frames (location text)")
    foreign_files = ["foreign_frames.map", "footprint.html", "unowned_frames.tilejson"]
    for name in (f"{gone}.map", *foreign_files):
        platform.drop(f"mapfiles/{name}", platform.storage.read(COLLECTION.map_key) if name.endswith("map") else b"x")
    (report,) = reconcile(platform, apply=True)
    assert [(action.kind, action.target) for action in report.actions] == [
        (ActionKind.DROP, gone), (ActionKind.REMOVE, f"mapfiles/{gone}.map"),
    ]  # fmt: skip
    assert reconcile(platform) == []
    assert all(platform.storage.head(f"mapfiles/{name}") for name in foreign_files)
    assert platform.rows(f"SELECT to_regclass('public.{gone}') AS it") == [{"it": None}]
    execute(platform, "DROP TABLE public.foreign_frames")
    for name in foreign_files:
        platform.storage.delete(f"mapfiles/{name}")


def test_a_collection_added_during_a_reconciliation_keeps_its_table(platform: Platform) -> None:
    """A collection's first frame was indexed while the others were compared, and its table was dropped as an orphan."""
    new = Collection("Travis", "USDA_1930", "frames")
    reports = Reconciler(platform.archive, platform.instance, apply=True).run()
    next(reports)
    row = f"('{new.name}', 'Travis', '{new.partition}', '{new.table}')"
    execute(platform, f"INSERT INTO ls4.collection (name, shard, partition, table_name) VALUES {row}")
    execute(platform, f"CREATE TABLE public.{new.table} (LIKE public.{TABLE} INCLUDING ALL)")
    try:
        assert [report for report in reports if not report.is_consistent] == []
        assert platform.rows(f"SELECT to_regclass('public.{new.table}')::text AS it") == [{"it": new.table}]
    finally:
        execute(platform, f"DELETE FROM ls4.collection WHERE name = '{new.name}'")
        execute(platform, f"DROP TABLE IF EXISTS public.{new.table}")


def test_nothing_is_changed_while_runs_are_active(platform: Platform) -> None:
    data = platform.storage.read(COLLECTION.map_key)
    platform.storage.delete(COLLECTION.map_key)
    execute(platform, f"UPDATE ls4.source SET state = 'requested' WHERE key = '{KEYS[1]}'")
    (report,) = reconcile(platform, apply=True)
    assert report.actions == []
    assert report.error == "runs are processing its frames; reconcile it when they are done."
    execute(platform, f"UPDATE ls4.source SET state = 'done' WHERE key = '{KEYS[1]}'")
    platform.drop(COLLECTION.map_key, data)


def run_command(platform: Platform, *arguments: str, **overrides: str) -> str:
    settings = {f"LS4_{name.upper()}": value for name, value in (platform.archive.overrides | overrides).items()}
    environment = settings | {"DAGSTER_HOME": str(platform.instance.root_directory)}
    return CliRunner().invoke(main, list(arguments), env=environment).output


def test_the_command_prints_the_plan_and_applies_it(platform: Platform) -> None:
    platform.storage.delete(FIRST.cog_key)
    plan = run_command(platform, "reconcile")
    lines = [
        f"{COLLECTION.name}:",
        "    make 1 frames again from their georef tifs",
        f"        {FIRST.id} has no COG in the bucket",
    ]
    assert "\n".join(lines) in plan
    assert plan.endswith("1 collections, 0 consistent.\nThis is the plan; --apply carries it out.\n")
    (line,) = run_command(platform, "reconcile", "--json").splitlines()
    assert json.loads(line)["actions"][0]["kind"] == "requeue"
    assert "`ls4 status` shows the progress" in run_command(platform, "reconcile", TABLE.upper(), "--apply")
    platform.settle()
    assert run_command(platform, "reconcile") == "1 collections, 1 consistent.\n"
    assert "`ls4 status` lists all collections" in run_command(platform, "reconcile", "Travis_USDA_1959_frames")
