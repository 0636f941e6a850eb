"""Reports for operators: `ls4 status`, the metadata of the tile index in the Dagster UI, and the log lines of runs."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from affine import Affine
from click.testing import CliRunner, Result

from ls4_assets import logs
from ls4_assets.assets.frame_metadata import format_size
from ls4_assets.cli.main import main
from ls4_assets.domain.products import STEPS
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import CollectionStatus, Status, collect
from ls4_assets.operations.status_text import format_status
from ls4_assets_tests.platform import Platform, frame_of, running_platform
from ls4_assets_tests.rasters import photograph, write_tif

NAME = "Travis_USDA_1958_frames"
FOLDER = "bw/Travis/USDA_1958/frames/georef"
GOOD = [f"{FOLDER}/02-08-60_6-10{number}.tif" for number in range(3)]
BAD = f"{FOLDER}/02-08-60_6-666.tif"
MISNAMED = f"{FOLDER}/scan0001.tif"
ELSEWHERE = "bw/Bastrop/USDA_1964/frames/georef/scan0002.tif"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("log") / "ls4.jsonl"
    logs.configure(path)
    yield path
    logs.configure()


@pytest.fixture(scope="module")
def platform(cluster: Cluster, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Three frames on the map, one failed frame, and two files with invalid names, one of them in another county."""
    folder = tmp_path_factory.mktemp("platform")
    with running_platform(cluster, folder) as running:
        for number, key in enumerate(GOOD):
            place = Affine(1, 0, -10_880_000.0 + 200 * number, 0, -1, 3_540_000.0)
            running.drop(key, write_tif(folder / f"{number}.tif", photograph(200, 220, 1, number), transform=place))
        for key in (BAD, MISNAMED, ELSEWHERE):
            running.drop(key, b"not a tif")
        running.settle()
        yield running


def metadata(platform: Platform, asset: str, partition: str) -> dict[str, object]:
    records = dg.AssetRecordsFilter(dg.AssetKey(["Travis", asset]), asset_partitions=[partition])
    newest = platform.instance.fetch_materializations(records, limit=1).records[0].asset_materialization
    assert newest
    return {name: value.value for name, value in newest.metadata.items()}


def test_tile_index_metadata_has_the_report(platform: Platform) -> None:
    values = metadata(platform, "tile_index", frame_of(BAD).collection.partition)
    assert (values["frames"], values["failed"], values["waiting"], values["rejected"]) == (3, 1, 0, 1)
    reason = platform.state(BAD)[1]
    assert values["failed_frames"] == f"- **{BAD}**  \n  {reason}"
    assert MISNAMED in str(values["rejected_files"]) and ELSEWHERE not in str(values["rejected_files"])
    for step in STEPS:
        stored = [platform.storage.head(frame_of(key).product_key(step)) for key in GOOD]
        assert values[f"bytes_{step}"] == sum(item.size for item in stored if item)
    dropped = [platform.storage.head(key) for key in (*GOOD, BAD)]
    assert values["bytes_georef"] == sum(item.size for item in dropped if item)
    assert values["last_run_frames"] == 3
    # They claimed 0.02 s a frame: the rebuild of the map changes the times of the rows, too.
    assert not {"seconds_per_frame", "frames_per_minute"} & values.keys()
    (run,) = platform.instance.get_runs(dg.RunsFilter(tags={"ls4/kind": "frames"}))
    assert values["last_run"] == run.run_id


def test_materialization_has_seconds_and_size_of_each_product(platform: Platform) -> None:
    frame = frame_of(GOOD[0])
    sizes = {step: stored.size for step in STEPS if (stored := platform.storage.head(frame.product_key(step)))}
    for step in STEPS:
        values = metadata(platform, step, frame.partition)
        assert values["size"] == format_size(sizes[step])
        assert isinstance(values["seconds"], float) and values["seconds"] > 0
        assert ("source_sha256" in values) == (step == "cog"), "the frame's own metadata is stored once"
    cog = metadata(platform, "cog", frame.partition)
    parts = [cog[name] for name in ("seconds", "fetch_seconds", "publish_seconds", "frame_seconds")]
    assert all(isinstance(part, float) and part > 0 for part in parts)
    assert sum(parts[:3]) <= parts[3]  # type: ignore[arg-type,operator]


def test_runs_log_each_frame_and_rebuild(platform: Platform, log: Path) -> None:
    log_lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    frames = {line["frame"]: line for line in log_lines if line["event"] == "frame"}
    assert set(frames) == {frame_of(key).id for key in (*GOOD, BAD)}
    (run,) = platform.instance.get_runs(dg.RunsFilter(tags={"ls4/kind": "frames"}))
    for line in frames.values():
        assert (line["run"], line["batch"]) == (run.run_id, run.tags["ls4/batch"])
        assert (line["shard"], line["collection"]) == ("Travis", NAME)
    good, bad = frames[frame_of(GOOD[0]).id], frames[frame_of(BAD).id]
    assert (good["level"], good["outcome"]) == ("info", "made")
    stages, source = good["stages"], platform.storage.head(GOOD[0])
    assert source and stages["deflate"]["bytes_in"] == source.size
    assert stages["overviews"]["bytes_in"] == stages["deflate"]["bytes_out"]
    assert stages["cog"]["bytes_in"] == stages["deflate"]["bytes_out"] + stages["overviews"]["bytes_out"]
    assert set(good["stages"]) == set(STEPS) and good["seconds"] > good["fetch_seconds"] > 0
    assert (bad["level"], bad["outcome"], bad["reason"]) == ("error", "failed", platform.state(BAD)[1])
    (batch,) = [line for line in log_lines if line["event"] == "batch"]
    assert (batch["frames"], batch["failed"], batch["level"]) == (4, 1, "error")
    rebuilt = [line["event"] for line in log_lines if line.get("collection") == NAME and line["event"] != "frame"]
    assert {"tile_index", "mapfile"} <= set(rebuilt)


def test_status_of_one_collection_has_its_report(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    output = ls4(platform, monkeypatch, "status", NAME.lower()).output
    assert f"{NAME}: 4 dropped: 3 done, 0 waiting, 1 rejected; 3 on the map" in output
    assert "    size: georef " in output and "    last run: 3 frames\n" in output
    assert "Rejected, for their names: 1" in output and ELSEWHERE not in output
    read = json.loads(ls4(platform, monkeypatch, "status", NAME, "--json").output)
    assert read["report"]["bytes"]["cog"] > 0
    assert [collection["name"] for collection in read["collections"]] == [NAME]
    wrong = ls4(platform, monkeypatch, "status", "Travis_USDA_1985_frames")
    assert wrong.exit_code == 1
    assert wrong.output.startswith("Error: There is no collection Travis_USDA_1985_frames; did you mean Travis_USDA_1958_frames?")


def test_status_of_the_archive_keeps_its_json_keys(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    read = json.loads(ls4(platform, monkeypatch, "status", "--json").output)
    (collection,) = read["collections"]
    assert {"name", "dropped", "done", "waiting", "indexed", "map_url", "failed"} <= set(collection)
    assert collection["failed"] == {BAD: platform.state(BAD)[1]}
    assert set(read["rejected"]) == {MISNAMED, ELSEWHERE}
    assert collection["bytes"] == sum(stored.size for key in (*GOOD, BAD) if (stored := platform.storage.head(key)))
    assert (collection["rebuild"], collection["held"]) == ("none", 0)


def test_status_reports_rebuilds_that_are_pending_or_failing(platform: Platform) -> None:
    for attempts, rebuild in ((0, "pending"), (3, "failing")):
        with platform.database.begin() as connection:
            connection.exec_driver_sql(f"UPDATE ls4.collection SET attempts = {attempts}, map_revision = 0")
        status = collect(platform.settings)
        assert [collection.rebuild for collection in status.collections] == [rebuild]
    assert "cannot be rebuilt" in "\n".join(format_status(status))
    platform.skip_waits()
    platform.rebuild()
    assert [collection.rebuild for collection in collect(platform.settings).collections] == ["none"]


def test_status_reports_held_deletions(platform: Platform) -> None:
    with platform.database.begin() as connection:
        connection.exec_driver_sql(f"UPDATE ls4.source SET deletion_held_at = now() WHERE key = '{GOOD[0]}'")
    status = collect(platform.settings, NAME)
    with platform.database.begin() as connection:
        connection.exec_driver_sql("UPDATE ls4.source SET deletion_held_at = NULL")
    assert [collection.held for collection in status.collections] == [1]
    assert f"    1 of 4 frames of {NAME} are gone from georef/; nothing was removed. To remove them, run " in "\n".join(
        format_status(status)
    )


def test_long_lists_are_truncated_in_a_terminal_and_complete_in_json(platform: Platform) -> None:
    with platform.database.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO ls4.source (key, state, reason, version, size, collection) "
            f"SELECT '{FOLDER}/z' || i, 'failed', 'reason ' || i, 'v', 1, '{NAME}' FROM generate_series(1, 199) i"
        )
    try:
        text = format_status(collect(platform.settings, limit=20))
        assert sum("    rejected, for its content: " in line for line in text) == 20
        assert "    and 180 more: --json lists all" in text
        assert len(collect(platform.settings).collections[0].failed) == 200
    finally:
        with platform.database.begin() as connection:
            connection.exec_driver_sql("DELETE FROM ls4.source WHERE version = 'v'")


def test_collections_with_problems_come_first() -> None:
    quiet = [CollectionStatus(f"A{number:03}", 5, 5, 0, 5, "http://x") for number in range(100)]
    failing = CollectionStatus("Z", 5, 4, 0, 4, "http://x", {"key": "reason"}, failed_count=1)
    text = format_status(Status((*quiet, failing), {}))
    assert text[0] == "101 collections: 505 dropped, 504 done, 504 on the map"
    assert text[1].startswith("Z: 5 dropped: 4 done")
    assert text[-1] == "and 81 more, all of their frames on the map: `ls4 status NAME` shows one, --json lists all"


def ls4(platform: Platform, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    for name, value in platform.archive.overrides.items():
        monkeypatch.setenv(f"LS4_{name.upper()}", value)
    return CliRunner().invoke(main, list(arguments))
