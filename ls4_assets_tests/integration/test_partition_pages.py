"""What the Dagster UI shows first: the place of a good frame, the reason of a bad one, and that files are rejected."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.event_api import PartitionKeyFilter

from ls4_assets.assets import frame_checks, keys
from ls4_assets.assets.frame_metadata import format_size
from ls4_assets.domain.products import STEPS
from ls4_assets_tests.platform import Platform, frame_of
from ls4_assets_tests.rasters import photograph, write_tif
from sensors.rejected_files import NOTHING_REJECTED

FOLDER = "bw/Travis/USDA_1958/frames/georef"
KEY = f"{FOLDER}/02-08-60_6-101.tif"
COG = keys.product("Travis", "cog")


def latest_evaluation(
    platform: Platform, asset: dg.AssetKey, name: str, partition: str | None = None
) -> dg.AssetCheckEvaluation | None:
    key = dg.AssetCheckKey(asset, name)
    only = PartitionKeyFilter(key=partition) if partition else None
    executions = platform.instance.event_log_storage.get_latest_asset_check_execution_by_key([key], only)
    event = executions[key].event if key in executions else None
    return event.dagster_event.asset_check_evaluation_data if event and event.dagster_event else None


def test_good_frame_begins_with_its_place_on_the_map(platform: Platform, tmp_path: Path) -> None:
    """Key, bytes, seconds and three hashes were above the links, and there was none to the map."""
    platform.drop(KEY, write_tif(tmp_path / "good.tif", photograph(200, 220)))
    platform.ingest()
    event = platform.instance.get_latest_materialization_event(COG)
    assert event and event.asset_materialization
    metadata = event.asset_materialization.metadata
    assert [*metadata][:5] == ["map", "thumbnail", "link", "size", "dimensions"]
    assert [*metadata][-3:] == ["profile", "source_version", "source_sha256"]
    assert metadata["map"].value == "http://maps.test/#travis_usda_1958_frames?frame=bw/02-08-60_6-101"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (999_960, "1.0 MB"), (25 * 10**14, "2500.0 TB")],
)
def test_sizes_are_rounded(size: int, text: str) -> None:
    assert format_size(size) == text


def test_every_bad_frame_has_a_failed_evaluation_with_the_reason(platform: Platform) -> None:
    """A frame with an invalid key, or whose worker was lost, had none."""
    platform.drop(KEY, b"%PDF-1.7")
    platform.ingest()
    platform.instance.add_dynamic_partitions("frames/Travis", ["oops"])
    platform.run([keys.product("Travis", step) for step in STEPS], partition_key="oops")
    for partition, reason in ((frame_of(KEY).partition, "is not a tif"), ("oops", "The partition oops names no frame")):
        evaluation = latest_evaluation(platform, COG, frame_checks.COG_VALID, partition)
        assert evaluation and not evaluation.passed and reason in str(evaluation.description)


def test_rejected_files_are_a_warning_as_soon_as_the_list_changes(platform: Platform) -> None:
    """The Dagster UI showed rejected files as healthy until the audit at five in the morning."""

    def evaluate() -> dg.AssetCheckEvaluation | None:
        platform.ingest()
        platform.tick("notifications")
        return latest_evaluation(platform, keys.REJECTED_FILES, NOTHING_REJECTED)

    rejected = f"{FOLDER}/scan0001.tif"
    platform.drop(rejected, b"x")
    warned = evaluate()
    assert warned and not warned.passed and warned.severity == dg.AssetCheckSeverity.WARN
    assert str(warned.description).startswith(f"{rejected}: ") and warned.metadata["rejected"].value == 1
    platform.storage.delete(rejected)
    passed = evaluate()
    assert passed and passed.passed and passed.description is None


def test_sensors_select_only_what_they_request(platform: Platform) -> None:
    """Every sensor listed every asset on the Automation page."""
    graph = platform.definitions.resolve_asset_graph()
    selected = {}
    for name in ("ingest_poll", "publish_collections"):
        selection = platform.definitions.get_sensor_def(name).asset_selection
        assert selection
        selected[name] = {key.path[-1] for key in selection.resolve(graph)}
    collection_steps = {"tile_index", "overview_mosaic", "mapfile", "exports"}
    assert selected == {"ingest_poll": {*STEPS, *collection_steps}, "publish_collections": collection_steps}
