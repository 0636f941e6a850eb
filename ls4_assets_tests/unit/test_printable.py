"""Names of files are shown in terminals, messages and the Dagster UI: they must not forge lines or a direction of writing."""

import ast
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ls4_assets.assets import markdown
from ls4_assets.domain.names import FRAME_TYPES, Collection, Frame, check_file_name
from ls4_assets.domain.printable import printable
from ls4_assets.errors import InvalidNameError
from ls4_assets.ingest.listing import DroppedFile
from ls4_assets.ingest.planner import Rules, plan_changes
from ls4_assets.notifications.messages import compose_message
from ls4_assets.notifications.planner import Incident, IncidentKind, Notification, Transition
from ls4_assets.notifications.rejections import Rejection, split_advice
from ls4_assets_tests.platform import CHECKOUT, NAMING

NOW = datetime(2026, 1, 7, tzinfo=UTC)
HOSTILE = "bw/Travis/USDA_1958/frames/georef/a\n2026-01-01 INFO all good\x1b[2J\u202egpj.\u2028\u200b.tif"
HIDDEN = "\n\r\x1b\u202e\u2028\u200b\x00"


@pytest.mark.parametrize("text", ["02-08-60_6-107.tif", "Straße 日本 x.tif", "a b", ""])
def test_harmless_text_stays(text: str) -> None:
    assert printable(text) == text


def test_hidden_characters_become_visible() -> None:
    assert printable("a\nb\x1b\u202ec\u2028") == r"a\nb\x1b\u202ec\u2028"


def test_rejected_name_cannot_forge_output() -> None:
    """A line break or a bidi mark in a name went raw into the terminal, notices.txt and the Dagster UI."""
    rules = Rules(NAMING, NOW - NOW, NOW - NOW, {})
    (change,) = plan_changes([DroppedFile(HOSTILE, "1", 5)], {}, NOW, rules).rows
    assert change.reason and not set(HIDDEN) & set(change.reason)
    assert "all good" in change.reason
    error, advice = split_advice(HOSTILE, change.reason)
    assert not error.startswith("bw/"), "the key is shown beside the reason"
    assert not set(HIDDEN) & set(markdown.table(["file"], [(HOSTILE,)]).splitlines()[-1])
    # The same rejection is not written again with each scan.
    assert advice


def test_folder_name_cannot_forge_a_notification() -> None:
    scope = "bw/Travis\nSubject: all good/\u202e"
    incident = Incident(IncidentKind.REJECTED, scope, 1, NOW, NOW)
    rejection = Rejection(printable(HOSTILE), "rejected", scope, "It is wrong.", "Rename it.", NOW, NOW, 1, None, False)
    notification = Notification(Transition.OPENED, IncidentKind.REJECTED, (incident,))
    settings = type("Settings", (), {"staff_url": "http://staff", "dagster_url": "http://dagster", "map_url": "http://map"})()
    message = compose_message(notification, {incident.key: [rejection]}, settings)
    assert "\nSubject: all good" not in message.body + message.subject
    assert "Rename it." in message.body
    assert not (set(HIDDEN) - {"\n"}) & set(message.subject + message.body)


@pytest.mark.parametrize("stem", ["\u0660\u0662-\u0660\u0668-\u0660\u0666_1-2", "02-08-60_6-\uff11", "mosaic\u0660\u0661"])
@pytest.mark.parametrize("type_", FRAME_TYPES)
def test_digits_of_other_scripts_are_rejected(stem: str, type_: str) -> None:
    """A date in Arabic digits was accepted and published; the page's permalink never found its photograph."""
    frame = Frame(Collection("Travis", "USDA_1958", type_), "bw", stem)  # type: ignore[arg-type]
    with pytest.raises(InvalidNameError):
        check_file_name(frame, NAMING)


def test_no_expression_matches_digits_or_letters_of_every_script() -> None:
    r"""`\d` matches the digits of every script, so a name that passes is not what the next program expects.

    The map server's expressions are left out: they match documents that ls4 wrote, and paths, which may have any letters.
    """
    found = []
    for folder in ("ls4_assets", "resources", "sensors"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            found += _find_expressions(path)
    assert not found, rf"write [0-9] for \d and [A-Za-z0-9_] for \w, or pass re.ASCII: {found}"


def _find_expressions(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "re.ASCII" in ast.unparse(node)]
    allowed = {inner for call in calls for inner in ast.walk(call)}
    return [
        f"{path.name}:{node.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and (r"\d" in node.value or r"\w" in node.value)
        and node not in allowed
    ]
