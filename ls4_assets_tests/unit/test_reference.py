"""The generated tables of docs/reference are those that the code gives: run `make reference` when one of these fails."""

import re
from pathlib import Path
from typing import get_args

import pytest

from docs.generate import REFERENCE, blocks, rendered, unit
from ls4_assets.logs import EVENTS, EventName
from ls4_assets.settings import CONCERNS, Settings
from ls4_assets_tests.platform import CHECKOUT


@pytest.fixture(scope="module")
def content() -> dict[str, str]:
    return blocks()


def test_pages_are_up_to_date(content: dict[str, str]) -> None:
    """A renamed setting kept its old name in the documentation."""
    pages = {path.name: path.read_text() for path in REFERENCE.glob("*.md")}
    outdated = [name for name, page in pages.items() if rendered(page, content) != page]
    assert not outdated, "run `make reference`"


def test_every_block_stands_on_a_page_and_has_an_end(content: dict[str, str]) -> None:
    """Without its end, the block of the profiles was never rendered again, and the page had no table."""
    found = []
    for path in REFERENCE.glob("*.md"):
        names = re.findall(r"<!-- (?:generated: (\S+)|end) -->", path.read_text())
        assert all(names[::2]) and not any(names[1::2]) and len(names) % 2 == 0, f"{path.name}: end each block with <!-- end -->"
        found += names[::2]
    assert sorted(found) == sorted([*content, "alarms"])


def test_every_setting_has_a_description() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not field.description and name != "profiles"]


def test_every_number_has_a_unit() -> None:
    """`LS4_FULL_SCAN_HOUR` did not say in which time zone."""
    numbers = {name: field for name, field in Settings.model_fields.items() if field.annotation in (int, float)}
    assert numbers
    assert not [name for name, field in numbers.items() if unit(field) is None]


def test_every_setting_belongs_to_one_concern() -> None:
    """A setting of no concern would be missing in the reference."""
    assert sorted(name for concern in CONCERNS for name in concern.model_fields) == sorted(Settings.model_fields)


def test_every_log_event_has_a_meaning() -> None:
    assert set(get_args(EventName)) == set(EVENTS)


def test_every_page_is_in_the_navigation() -> None:
    """A page that no menu names is found by nobody."""
    navigation = (CHECKOUT / "zensical.toml").read_text()
    records = (CHECKOUT / "docs" / "decisions" / "index.md").read_text()
    pages = {path.relative_to(CHECKOUT / "docs") for path in (CHECKOUT / "docs").rglob("*.md")}
    assert not [page for page in pages if str(page) not in navigation and page.name not in records]


@pytest.mark.parametrize("source", sorted((CHECKOUT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_settings_that_pages_name_exist(source: Path) -> None:
    """A page advised a setting that had been renamed."""
    fields = {f"LS4_{name.upper()}" for name in Settings.model_fields}
    others = {"LS4_CONFIG", "LS4_STATE", "LS4_DEPLOY", "LS4_DAGSTER_DATABASE_URL", "LS4_ADMIN_DATABASE_URL"}
    named = set(re.findall(r"\bLS4_[A-Z0-9_]*[A-Z0-9]\b", source.read_text()))
    unknown = {name for name in named if name.partition("__")[0] not in fields | others and not name.startswith("LS4_PASSWORD_")}
    assert not unknown


@pytest.mark.parametrize("source", sorted((CHECKOUT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_tests_that_pages_name_exist(source: Path) -> None:
    """A page promised a test that had been renamed."""
    named = re.findall(r"`((?:unit|integration|deploy)/test_\w+[.]py)(?:::(\w+))?`", source.read_text())
    contents = {file: CHECKOUT / "ls4_assets_tests" / file for file, _ in named}
    missing = [
        (file, name)
        for file, name in named
        if not contents[file].is_file() or (f"def {name}(" not in contents[file].read_text() and name)
    ]
    assert not missing
