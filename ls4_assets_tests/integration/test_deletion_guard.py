"""The deletion guard: what it holds, what it lets go, and what the operator reads."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from ls4_assets.cli.main import main
from ls4_assets.ingest.confirm import confirm_deletion
from ls4_assets.ingest.deletions import HeldDeletion, list_held_deletions
from ls4_assets.ingest.scan import check_keys
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect
from ls4_assets.operations.status_text import format_status
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, NAME, Ingest, ingest_fixture, open_ingest, tif  # noqa: F401

NC = FOLDER.replace("bw/", "nc/")


def fill(ingest: Ingest, count: int, folder: str = FOLDER) -> list[str]:
    keys = [tif(number, folder) for number in range(count)]
    ingest.drop(*keys)
    ingest.scan(2)
    ingest.finish()
    return keys


def held(ingest: Ingest) -> list[HeldDeletion]:
    with ingest.archive.database.connect() as connection:
        return list_held_deletions(connection)


def age(ingest: Ingest, hours: int) -> None:
    """Move all changes so far into the past."""
    ingest.write(f"UPDATE ls4.source SET changed_at = changed_at - interval '{hours} hours'")


def test_large_deletion_is_held_and_needs_confirmation(ingest: Ingest) -> None:
    """A folder was renamed, and a county was off the map within a minute."""
    keys = fill(ingest, 100)
    ingest.delete(*keys[:40])
    ingest.scan()
    assert ingest.scan().held == {NAME}
    assert ingest.count() == {"done": 100}
    assert str(held(ingest)[0]) == (
        f"40 of 100 frames of {NAME} are gone from georef/; nothing was removed. "
        f"To remove them, run `ls4 confirm-deletion {NAME}`; otherwise put the files back."
    )
    assert ingest.scan(3).counts.total() == 0
    assert held(ingest) == [HeldDeletion(NAME, 40, 100)]
    assert any(f"`ls4 confirm-deletion {NAME}`" in line for line in format_status(collect(ingest.archive.settings)))


def test_returned_files_are_released_and_the_others_stay_held(ingest: Ingest) -> None:
    """While files were copied back, the rest fell below the share and counted as deleted."""
    keys = fill(ingest, 100)
    root = Path(ingest.archive.settings.storage)
    aside = root / ".aside"
    aside.mkdir()
    for key in keys[:40]:
        (root / key).rename(aside / Path(key).name)
    ingest.scan(2)
    assert held(ingest) == [HeldDeletion(NAME, 40, 100)]
    for key in keys[:35]:
        (aside / Path(key).name).rename(root / key)
    ingest.scan(3)
    check_keys(ingest.archive, keys[35:40])
    assert held(ingest) == [HeldDeletion(NAME, 5, 100)]
    ingest.drop(*keys[35:40])
    ingest.scan(3)
    assert held(ingest) == []
    assert ingest.count("missing_since is not null") == {}


@pytest.mark.parametrize(("total", "gone", "is_deleted"), [(20, 20, True), (21, 21, False), (105, 21, True), (104, 21, False)])
def test_deletion_is_held_only_above_both_share_and_frame_limit(ingest: Ingest, total: int, gone: int, is_deleted: bool) -> None:
    keys = fill(ingest, total)
    ingest.delete(*keys[:gone])
    ingest.scan(2)
    assert ingest.count("state = 'deleted'")["deleted"] == (gone if is_deleted else 0)
    assert bool(held(ingest)) is not is_deleted


def test_small_deletions_add_up_within_a_day(ingest: Ingest) -> None:
    """Ten files were deleted every minute, and after an hour nothing was left."""
    keys = fill(ingest, 100)
    for start in (0, 10, 20):
        ingest.delete(*keys[start : start + 10])
        ingest.scan(2)
    assert ingest.count() == {"deleted": 20, "done": 80}
    assert held(ingest) == [HeldDeletion(NAME, 10, 80)]
    ingest.drop(*keys[20:30])
    ingest.scan(3)
    age(ingest, 25)
    ingest.delete(*keys[20:30])
    ingest.scan(2)
    assert ingest.count() == {"deleted": 30, "done": 70}


def test_collection_that_disappears_over_several_scans_is_held_whole(cluster: Cluster, tmp_path: Path) -> None:
    """Each scan saw only a few files missing, and deleted them."""
    with open_ingest(cluster, tmp_path) as ingest:
        keys = fill(ingest, 200)
        rest = fill(ingest, 30, FOLDER.replace("Travis", "Zavala"))
        ingest.delete(*keys[::2])
        for _ in range(60):
            ingest.scan(keys=30)
        assert ingest.count() == {"done": len(keys) + len(rest)}
        assert held(ingest) == [HeldDeletion(NAME, 100, 200)]


def test_missing_county_is_held_for_both_film_types(ingest: Ingest) -> None:
    fill(ingest, 30)
    fill(ingest, 30, NC)
    for film_type in ("bw", "nc"):
        (Path(ingest.archive.settings.storage) / film_type / "Travis").rename(
            Path(ingest.archive.settings.storage) / f".{film_type}"
        )
    ingest.drop("bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-1.tif")
    ingest.scan(3)
    assert held(ingest) == [HeldDeletion(NAME, 60, 60)]
    assert ingest.count("collection = 'Travis_USDA_1958_frames'") == {"done": 60}


def test_renamed_files_do_not_count_as_lost(ingest: Ingest) -> None:
    """All .TIF files were renamed to .tif, and the operator was asked whether to delete the county."""
    keys = fill(ingest, 30)
    ingest.delete(*keys)
    ingest.drop(*(key.replace(".tif", ".TIF") for key in keys))
    ingest.scan(3)
    assert held(ingest) == []
    assert ingest.count() == {"deleted": 30, "queued": 30}


def test_operator_approves_exactly_the_held_files(ingest: Ingest) -> None:
    keys = fill(ingest, 100)
    ingest.delete(*keys[:40])
    ingest.scan(2)
    ingest.drop(keys[0])  # comes back before the confirmation
    ingest.delete(keys[99])  # not held
    echoed: list[str] = []
    assert not confirm_deletion(ingest.archive, NAME, echoed.append, lambda _: False)
    assert ingest.count() == {"done": 99, "settling": 1}
    assert confirm_deletion(ingest.archive, NAME.lower(), echoed.append, lambda _: True)
    assert keys[1] in echoed and keys[0] not in echoed and "and 19 more" in echoed
    assert ingest.count() == {"deleted": 39, "done": 60, "settling": 1}
    assert (ingest.states()[keys[0]], ingest.states()[keys[99]]) == ("settling", "done")
    ingest.scan(2)
    assert ingest.count() == {"deleted": 40, "done": 59, "queued": 1}  # confirmed deletions do not count toward later ones
    assert not confirm_deletion(ingest.archive, NAME, echoed.append, lambda _: True)
    assert echoed[-1] == f"No deletion of {NAME} is held. `ls4 status` lists the collections with held deletions."


@pytest.fixture
def configured(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> Ingest:
    for name, value in ingest.archive.overrides.items():
        monkeypatch.setenv(f"LS4_{name.upper()}", value)
    return ingest


def test_command_lists_files_and_asks(configured: Ingest) -> None:
    keys = fill(configured, 30)
    configured.delete(*keys)
    configured.drop("bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-1.tif")
    configured.scan(3)
    no = CliRunner().invoke(main, ["confirm-deletion", NAME], input="n\n")
    assert (no.exit_code, configured.count("state = 'deleted'")) == (1, {})
    assert f"Remove 30 of 30 frames of {NAME} from the map" in no.output and keys[0] in no.output
    unknown = CliRunner().invoke(main, ["confirm-deletion", "Travis_USDA_1985_frames"])
    assert unknown.exit_code == 1 and f"did you mean {NAME}" in unknown.output
    yes = CliRunner().invoke(main, ["confirm-deletion", NAME, "--yes"])
    assert (yes.exit_code, configured.count("state = 'deleted'")) == (0, {"deleted": 30})
    with configured.archive.database.connect() as connection:
        assert (
            connection.scalar(text("SELECT count(*) FROM ls4.source WHERE deletion_held_at IS NOT NULL AND state <> 'deleted'"))
            == 0
        )
