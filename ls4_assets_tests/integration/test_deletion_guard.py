"""Much of a collection gone at once is a question, not an order: what is held, what goes, and what the operator is told."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from ls4_assets.cli.main import main
from ls4_assets.ingest.confirm import confirm_deletion
from ls4_assets.ingest.deletions import Held, held_collections
from ls4_assets.ingest.scan import check_keys
from ls4_assets.local.postgres import Cluster
from ls4_assets.operations.status import collect, lines
from ls4_assets_tests.integration.ingest_fixtures import FOLDER, NAME, Intake, intake_fixture, opened, tif  # noqa: F401

NC = FOLDER.replace("bw/", "nc/")


def fill(intake: Intake, count: int, folder: str = FOLDER) -> list[str]:
    keys = [tif(number, folder) for number in range(count)]
    intake.drop(*keys)
    intake.look(2)
    intake.finish()
    return keys


def held(intake: Intake) -> list[Held]:
    with intake.archive.database.connect() as connection:
        return held_collections(connection)


def age(intake: Intake, hours: int) -> None:
    """As if what happened so far had happened earlier."""
    intake.write(f"UPDATE ls4.source SET changed_at = changed_at - interval '{hours} hours'")


def test_much_of_a_collection_gone_at_once_stays_and_is_asked_about(intake: Intake) -> None:
    """Somebody renamed the folder, and a county was off the map within a minute."""
    keys = fill(intake, 100)
    intake.delete(*keys[:40])
    intake.look()
    assert intake.look().held == {NAME}
    assert intake.count() == {"done": 100}
    assert str(held(intake)[0]) == (
        f"40 of 100 frames of {NAME} are gone from georef/; nothing was removed. "
        f"If that is meant: `ls4 confirm-deletion {NAME}`, else put the files back."
    )
    assert intake.look(3).counts.total() == 0
    assert held(intake) == [Held(NAME, 40, 100)]
    assert any(f"`ls4 confirm-deletion {NAME}`" in line for line in lines(collect(intake.archive.settings)))


def test_files_that_come_back_are_no_longer_held_and_the_others_still_are(intake: Intake) -> None:
    """While they were being copied back the rest fell below the share, and was taken for deleted."""
    keys = fill(intake, 100)
    root = Path(intake.archive.settings.storage)
    aside = root / ".aside"
    aside.mkdir()
    for key in keys[:40]:
        (root / key).rename(aside / Path(key).name)
    intake.look(2)
    assert held(intake) == [Held(NAME, 40, 100)]
    for key in keys[:35]:
        (aside / Path(key).name).rename(root / key)
    intake.look(3)
    check_keys(intake.archive, keys[35:40])
    assert held(intake) == [Held(NAME, 5, 100)]
    intake.drop(*keys[35:40])
    intake.look(3)
    assert held(intake) == []
    assert intake.count("missing_since is not null") == {}


@pytest.mark.parametrize(("there", "gone", "goes"), [(20, 20, True), (21, 21, False), (105, 21, True), (104, 21, False)])
def test_the_share_and_the_number_of_frames_must_both_be_passed(intake: Intake, there: int, gone: int, goes: bool) -> None:
    keys = fill(intake, there)
    intake.delete(*keys[:gone])
    intake.look(2)
    assert intake.count("state = 'deleted'")["deleted"] == (gone if goes else 0)
    assert bool(held(intake)) is not goes


def test_small_steps_add_up_within_a_day(intake: Intake) -> None:
    """Ten files went every minute, and after an hour nothing was left."""
    keys = fill(intake, 100)
    for start in (0, 10, 20):
        intake.delete(*keys[start : start + 10])
        intake.look(2)
    assert intake.count() == {"deleted": 20, "done": 80}
    assert held(intake) == [Held(NAME, 10, 80)]
    intake.drop(*keys[20:30])
    intake.look(3)
    age(intake, 25)
    intake.delete(*keys[20:30])
    intake.look(2)
    assert intake.count() == {"deleted": 30, "done": 70}


def test_a_collection_that_vanishes_over_several_looks_is_held_whole(cluster: Cluster, tmp_path: Path) -> None:
    """Each look saw a few files of it gone, and let them go."""
    with opened(cluster, tmp_path) as intake:
        keys = fill(intake, 200)
        rest = fill(intake, 30, FOLDER.replace("Travis", "Zavala"))
        intake.delete(*keys[::2])
        for _ in range(60):
            intake.look(keys=30)
        assert intake.count() == {"done": len(keys) + len(rest)}
        assert held(intake) == [Held(NAME, 100, 200)]


def test_a_whole_county_gone_is_held_in_both_bands(intake: Intake) -> None:
    fill(intake, 30)
    fill(intake, 30, NC)
    for band in ("bw", "nc"):
        (Path(intake.archive.settings.storage) / band / "Travis").rename(Path(intake.archive.settings.storage) / f".{band}")
    intake.drop("bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-1.tif")
    intake.look(3)
    assert held(intake) == [Held(NAME, 60, 60)]
    assert intake.count("collection = 'Travis_USDA_1958_frames'") == {"done": 60}


def test_files_that_are_only_renamed_are_not_lost(intake: Intake) -> None:
    """All .TIF became .tif; the question whether a county was to be deleted made no sense to anybody."""
    keys = fill(intake, 30)
    intake.delete(*keys)
    intake.drop(*(key.replace(".tif", ".TIF") for key in keys))
    intake.look(3)
    assert held(intake) == []
    assert intake.count() == {"deleted": 30, "queued": 30}


def test_the_operator_lets_exactly_the_held_files_go(intake: Intake) -> None:
    keys = fill(intake, 100)
    intake.delete(*keys[:40])
    intake.look(2)
    intake.drop(keys[0])  # comes back while the operator types
    intake.delete(keys[99])  # and this is not held
    said: list[str] = []
    assert not confirm_deletion(intake.archive, NAME, said.append, lambda _: False)
    assert intake.count() == {"done": 99, "settling": 1}
    assert confirm_deletion(intake.archive, NAME.lower(), said.append, lambda _: True)
    assert keys[1] in said and keys[0] not in said and "and 19 more" in said
    assert intake.count() == {"deleted": 39, "done": 60, "settling": 1}
    assert (intake.states()[keys[0]], intake.states()[keys[99]]) == ("settling", "done")
    intake.look(2)
    assert intake.count() == {"deleted": 40, "done": 59, "queued": 1}  # what was confirmed no longer counts against what follows
    assert not confirm_deletion(intake.archive, NAME, said.append, lambda _: True)
    assert said[-1] == f"No deletion of {NAME} waits to be confirmed; `ls4 status` names those that do."


@pytest.fixture
def configured(intake: Intake, monkeypatch: pytest.MonkeyPatch) -> Intake:
    for name, value in intake.archive.overrides.items():
        monkeypatch.setenv(f"LS4_{name.upper()}", value)
    return intake


def test_the_command_asks_and_names_what_goes(configured: Intake) -> None:
    keys = fill(configured, 30)
    configured.delete(*keys)
    configured.drop("bw/Bastrop/USDA_1958/frames/georef/02-08-60_6-1.tif")
    configured.look(3)
    no = CliRunner().invoke(main, ["confirm-deletion", NAME], input="n\n")
    assert (no.exit_code, configured.count("state = 'deleted'")) == (1, {})
    assert f"Take 30 of 30 frames of {NAME} off the map" in no.output and keys[0] in no.output
    unknown = CliRunner().invoke(main, ["confirm-deletion", "Travis_USDA_1985_frames"])
    assert unknown.exit_code == 1 and f"did you mean {NAME}" in unknown.output
    yes = CliRunner().invoke(main, ["confirm-deletion", NAME, "--yes"])
    assert (yes.exit_code, configured.count("state = 'deleted'")) == (0, {"deleted": 30})
    with configured.archive.database.connect() as connection:
        assert (
            connection.scalar(text("SELECT count(*) FROM ls4.source WHERE deletion_held_at IS NOT NULL AND state <> 'deleted'"))
            == 0
        )
