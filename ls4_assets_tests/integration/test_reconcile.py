"""Bucket, database and Dagster compared both ways: whatever is taken out of step is found, told, and mended by --apply."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from affine import Affine
from botocore.awsrequest import AWSResponse
from click.testing import CliRunner

from ls4_assets.cli import main
from ls4_assets.laptop.postgres import Cluster
from ls4_assets.names import Frame
from ls4_assets.reconcile.facts import Kind
from ls4_assets.reconcile.run import Reconciler, Report
from ls4_assets.reconcile.words import lines
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import NORTH, WEST, photograph, write_tif
from ls4_assets_tests.s3_servers import REGION, S3Server, s3_server_fixture  # noqa: F401
from resources.s3_storage import S3Storage

FOLDER = "bw/Travis/USDA_1958/frames"
KEYS = [f"{FOLDER}/georef/02-08-60_6-{number}.tif" for number in range(101, 104)]
FRAMES = [frame_of(key) for key in KEYS]
FIRST = FRAMES[0]
OF = FIRST.collection
TABLE = OF.table


@pytest.fixture
def platform(cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    """Three frames on the map."""
    with running_platform(cluster, tmp_path) as running:
        fill(running, tmp_path)
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


def test_an_archive_in_step_has_nothing_to_mend(platform: Platform) -> None:
    assert reconciled(platform) == []
    # Intermediates expire, and are not missed.
    for frame in FRAMES:
        platform.storage.delete(frame.deflate_key)
        platform.storage.delete(frame.overviews_key)
    assert reconciled(platform) == []


def test_a_frame_whose_cog_is_missing_is_made_anew(platform: Platform) -> None:
    platform.storage.delete(FIRST.cog_key)
    assert mended(platform, Kind.REQUEUE) == [FIRST.id]
    assert platform.storage.head(FIRST.cog_key)


def test_a_cog_that_somebody_wrote_over_is_made_anew(platform: Platform) -> None:
    before = platform.storage.read(FIRST.cog_key)
    platform.storage.put(FIRST.cog_key, b"not what ls4 put there")
    assert mended(platform, Kind.REQUEUE) == [FIRST.id]
    assert platform.storage.read(FIRST.cog_key) == before


def test_a_public_cog_of_a_replaced_frame_is_copied_again(platform: Platform, tmp_path: Path) -> None:
    platform.drop(KEYS[0], write_tif(tmp_path / "new.tif", photograph(300, 320, seed=9)))
    platform.settle()
    assert reconciled(platform) == []
    platform.storage.delete(FIRST.cog_key)
    assert mended(platform, Kind.REPUBLISH) == [FIRST.id]
    assert platform.storage.head(FIRST.cog_key)


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


def test_a_lost_shapefile_mosaic_and_mapfile_are_made_anew(platform: Platform) -> None:
    (mosaic,) = (one.key for one in platform.storage.list(f"derived/{OF.name}/overview_mosaic-"))
    for key in (OF.tile_index_key("bw", "_idx.zip"), OF.map_key, mosaic):
        platform.storage.delete(key)
    mended(platform, Kind.FILES, Kind.MOSAIC, Kind.MAP)
    for key in (OF.tile_index_key("bw", "_idx.zip"), OF.map_key, mosaic):
        assert platform.storage.head(key), key


def test_a_shapefile_of_fewer_frames_and_a_torn_mapfile_are_written_anew(platform: Platform) -> None:
    shx = OF.tile_index_key("bw", ".shx")
    whole, before = platform.storage.read(OF.map_key), platform.storage.read(shx)
    platform.storage.put(shx, before[:-8])
    platform.storage.put(OF.map_key, whole[: len(whole) // 2])
    platform.storage.put(OF.map_document_key(".tilejson"), b'{"tilejson": ')
    mended(platform, Kind.FILES, Kind.MAP)
    assert (platform.storage.read(OF.map_key), platform.storage.read(shx)) == (whole, before)


def test_a_raw_scan_that_came_late_is_linked(platform: Platform) -> None:
    platform.drop(f"{FOLDER}/scanned/02-08-60_6-101.TIF", b"the raw scan")
    assert mended(platform, Kind.RELINK) == [FIRST.id]
    links = platform.rows(f"SELECT dl_orig FROM {TABLE} WHERE frame_num = '101'")
    assert str(links[0]["dl_orig"]).endswith("/scanned/02-08-60_6-101.TIF")
    platform.storage.delete(f"{FOLDER}/scanned/02-08-60_6-101.TIF")
    assert mended(platform, Kind.RELINK) == [FIRST.id]


def test_a_tif_that_no_look_saw_and_one_that_is_gone_are_looked_at(platform: Platform) -> None:
    execute(platform, f"DELETE FROM ls4.source WHERE key = '{KEYS[0]}'")
    platform.storage.delete(KEYS[1])
    assert mended(platform, Kind.LOOK) == [KEYS[0], KEYS[1]]
    assert platform.state(KEYS[0]) == ("done", None)
    assert platform.storage.head(FRAMES[1].cog_key) is None


def test_orphans_go_and_cogs_of_unknown_frames_stay(platform: Platform) -> None:
    platform.storage.delete(KEYS[2])
    platform.settle()
    left = FRAMES[2]
    orphans = [left.cog_key, left.deflate_key, left.overviews_key, left.thumbnail_key, f"{left.served_folder}a-b.tif"]
    stranger = f"{FOLDER}/cog/02-08-60_6-177.tif"
    others = [f"derived/{OF.name}/stac/collection.json", f"{FOLDER}/georef/notes.txt"]
    for key in (*orphans, f"derived/{OF.name}/overview_mosaic-old.tif", stranger, *others):
        platform.drop(key, b"x")
    (report,) = reconciled(platform)
    assert {one.target for one in report.actions if one.kind == Kind.UNKNOWN} == {stranger}
    reconciled(platform, apply=True)
    for key in orphans:
        assert platform.storage.head(key) is None, key
    for key in (stranger, *others, *(frame.cog_key for frame in FRAMES[:2])):
        assert platform.storage.head(key), key
    assert [one.actions[0].target for one in reconciled(platform)] == [stranger]


def test_what_was_put_a_moment_ago_is_no_orphan(platform: Platform) -> None:
    platform.storage.delete(KEYS[2])
    platform.settle()
    platform.drop(FRAMES[2].deflate_key, b"x")
    assert [report for report in Reconciler(platform.archive, platform.instance).run() if not report.in_step] == []


def test_partitions_are_added_and_removed(platform: Platform) -> None:
    platform.instance.delete_dynamic_partition("frames/Travis", FIRST.partition)
    platform.instance.delete_dynamic_partition("collections/Travis", OF.partition)
    platform.instance.add_dynamic_partitions("frames/Travis", ["USDA_1958/frames/bw/02-08-60_6-999"])
    mended(platform, Kind.ADD_PARTITION, Kind.REMOVE_PARTITION)
    assert sorted(platform.instance.get_dynamic_partitions("frames/Travis")) == [frame.partition for frame in FRAMES]
    assert platform.instance.get_dynamic_partitions("collections/Travis") == [OF.partition]


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


def test_an_adopted_frame_whose_only_cog_is_gone_leaves_the_map(platform: Platform) -> None:
    execute(platform, f"UPDATE ls4.frame SET source_key = served_key WHERE id = '{FIRST.id}'")
    execute(platform, f"DELETE FROM ls4.source WHERE key = '{KEYS[0]}'")
    platform.storage.delete(KEYS[0])
    platform.storage.delete(FIRST.cog_key)
    assert mended(platform, Kind.WITHDRAW) == [FIRST.id]
    assert len(shown(platform)) == 2


def test_nothing_is_done_while_runs_work(platform: Platform) -> None:
    platform.storage.delete(FIRST.cog_key)
    execute(platform, f"UPDATE ls4.source SET state = 'requested' WHERE key = '{KEYS[1]}'")
    (report,) = reconciled(platform, apply=True)
    assert report.actions == []
    assert report.refused == "runs are making frames of it; reconcile it when they are done."
    assert platform.state(KEYS[0]) == ("done", None)


def test_a_lost_database_or_an_unmounted_disk_is_no_plan(platform: Platform, tmp_path: Path) -> None:
    result = command(platform, "reconcile", "--apply", storage=str(tmp_path / "elsewhere"))
    assert "elsewhere is not there; mount or make it" in result
    (tmp_path / "empty").mkdir()
    assert "mount the disk, or correct LS4_STORAGE" in command(platform, "reconcile", "--apply", storage=str(tmp_path / "empty"))
    execute(platform, "TRUNCATE ls4.source, ls4.frame, ls4.collection CASCADE")
    assert "`ls4 rebuild` restores it from the bucket" in command(platform, "reconcile", "--apply")
    assert platform.storage.head(FIRST.cog_key)


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


MANY = 1_050


def crowd(platform: Platform, count: int) -> None:
    """So many frames that are made, without any pixel: rows, objects and table."""
    storage, of = platform.storage, OF
    execute(platform, f"""
        INSERT INTO ls4.collection
          (name, shard, partition, table_name, frames, bands, index_revision, files_revision, map_revision)
        VALUES ('{of.name}', 'Travis', '{of.partition}', '{of.table}', 0, '{{}}', 1, 1, 1)
    """)  # fmt: skip
    for number in range(count):
        frame = Frame(of, "bw", f"02-08-60_6-{number:06}")
        key = f"{FOLDER}/georef/{frame.stem}.tif"
        platform.drop(key, b"x")
        version = storage.put(frame.cog_key, b"cog").version
        product = json.dumps({"cog": {"size": 3, "version": version, "made_by": "x"}})
        execute(platform, f"""
            INSERT INTO ls4.source (key, state, version, size, frame, shard, collection, partition)
              VALUES ('{key}', 'done', 'v', 1, '{frame.id}', 'Travis', '{of.name}', '{frame.partition}');
            INSERT INTO ls4.frame (id, shard, collection, partition, source_key, source_version, content_hash, products,
                                   served_key, public_version, indexed_revision)
              VALUES ('{frame.id}', 'Travis', '{of.name}', '{frame.partition}', '{key}', 'v', '', '{product}', '{frame.cog_key}',
                      '{version}', 1)
        """)  # fmt: skip
    platform.instance.add_dynamic_partitions("frames/Travis", [
        Frame(of, "bw", f"02-08-60_6-{number:06}").partition for number in range(count)])  # fmt: skip


@pytest.fixture
def crowded(s3_server: Callable[[str], S3Server], cluster: Cluster, tmp_path: Path) -> Iterator[Platform]:
    """More than a thousand frames in a bucket whose listings have a thousand keys a page."""
    server = s3_server("moto")
    bucket = f"s3://{server.new_bucket().bucket}"
    with running_platform(cluster, tmp_path, bucket, s3_endpoint_url=server.endpoint_url, s3_region=REGION) as running:
        crowd(running, MANY)
        yield running


def test_more_frames_than_a_page_of_a_listing_are_in_step_and_a_broken_listing_removes_nothing(crowded: Platform) -> None:
    """The old maintenance job read the first page only, and would have dropped what stands behind it from live tables."""
    assert found(crowded) == []
    storage = crowded.storage
    assert isinstance(storage, S3Storage)

    def refuse(request: object, **_: object) -> AWSResponse | None:
        url = str(getattr(request, "url", ""))
        return AWSResponse(url, 403, {}, Body()) if "continuation-token" in url.lower() else None

    storage.client.meta.events.register("before-send.s3.ListObjectsV2", refuse)
    for options in ({}, {"delete_many": True}):
        (report,) = reconciled(crowded, apply=True, **options)
        assert report.actions == []
        assert str(report.refused).startswith("cannot be listed whole")
    storage.client.meta.events.unregister("before-send.s3.ListObjectsV2", refuse)
    assert found(crowded) == []


class Body:
    def stream(self) -> Iterator[bytes]:
        yield b"<Error><Code>AccessDenied</Code></Error>"


def test_much_that_would_go_at_once_is_held(crowded: Platform) -> None:
    """A database that lost rows would else have had the objects of a third of the collection deleted."""
    execute(crowded, "DELETE FROM ls4.frame WHERE id > 'bw/Travis/USDA_1958/frames/02-08-60_6-0007'")
    execute(crowded, "UPDATE ls4.source SET state = 'deleted' WHERE key > 'bw/Travis/USDA_1958/frames/georef/02-08-60_6-0007'")
    for number in range(700, MANY):
        crowded.storage.delete(f"{FOLDER}/georef/02-08-60_6-{number:06}.tif")
    (report,) = reconciled(crowded, apply=True)
    assert {one.kind for one in report.actions} == set()
    assert [one.kind for one in report.held].count(Kind.REMOVE) == MANY - 700
    assert crowded.storage.head(f"{FOLDER}/cog/02-08-60_6-{MANY - 1:06}.tif")
    said = "\n".join(lines(report))
    assert "--apply --delete-many" in said and f"and {MANY - 703:,} more" in said
    reconciled(crowded, apply=True, delete_many=True)
    assert crowded.storage.head(f"{FOLDER}/cog/02-08-60_6-{MANY - 1:06}.tif") is None
    assert crowded.storage.head(f"{FOLDER}/cog/02-08-60_6-000001.tif")
