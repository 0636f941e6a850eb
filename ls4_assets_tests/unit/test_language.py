"""Names and prose keep to the terms of the field: CONTRIBUTING.md, "Names" and "Language".

The words are those of .vale/ls4, which `vale` applies to prose. This test applies them to every file and to the words
inside names, so that it also sees `told_at` and `TakeLook`.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ls4_assets_tests.platform import CHECKOUT

STYLES = CHECKOUT / ".vale" / "ls4"
# Built, third-party or historical text, and the rules themselves.
EXCLUDED = re.compile(
    r"^(\.vale/|uv\.lock$|LICENSE$|mapserver/static/|mapserver/viewer/package-lock\.json$|docs/images/"
    r"|ls4_assets/db/migrations/versions/|ls4_assets_tests/integration/database_at_0005\.sql$|ls4_assets_tests/unit/test_language\.py$|ls4_assets_tests/integration/test_migrations\.py$)"
)
# Places of packages and modules, and names that have another name now.
FORMER_NAMES = re.compile(
    r"ls4_assets[./](laptop|pixels|intake|index|outlines|notices|exports|adopt|reconcile|catalogue|room|orders|soundness|frame_work)\b"
    r"|\b(TakeLook|only_one_look|no_look|look_at_\w+|LS4_(LOOK|TRIAL|DAGIT|STUCK|SWEEP|READER_SECONDS|NOTIFY_SETTLE|NOTIFY_WINDOW)\w*"
    r"|NoRoom|carry_out|_Bench|Fate|frame_is_right|raw_scan_is_there|index_adds_up|archive_adds_up|no_secret_and_whole|map_is_drawn"
    r"|archive_in_step|refused_frames|ls4 rebuild|ls4 inventory|notice_unsent)\b"
)
# The README says what users call the Dagster UI; the changelog names what was renamed.
ALLOWED = {("README.md", "Dagit"), ("CHANGELOG.md", "ls4 rebuild"), ("CHANGELOG.md", "ls4 inventory")}


def tracked_text() -> Iterator[tuple[str, str]]:
    """Path and content of every text file of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        path = CHECKOUT / name
        if not EXCLUDED.match(name) and path.is_file():
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def banned_words() -> re.Pattern[str]:
    terms = yaml.safe_load((STYLES / "Terms.yml").read_text())["swap"]
    persons = yaml.safe_load((STYLES / "Personification.yml").read_text())["tokens"]
    return re.compile(rf"\b(?:{'|'.join([*terms, *persons])})\b", re.IGNORECASE)


def words_apart(text: str) -> str:
    """Names with their words apart: `told_at` is `told at`, `TakeLook` is `Take Look`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text.replace("_", " "))


def findings(name: str, text: str) -> Iterator[str]:
    banned = banned_words()
    for number, line in enumerate(text.splitlines(), 1):
        for match in [*banned.finditer(words_apart(line)), *FORMER_NAMES.finditer(line)]:
            if (name, match[0]) not in ALLOWED:
                yield f"{name}:{number}: {match[0]!r}"


def test_no_file_falls_back_into_the_former_vocabulary() -> None:
    found = [finding for name, text in tracked_text() for finding in findings(name, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    ["told_at", "class TakeLook:", "the run dies", "is no key", "made anew", "LS4_TRIAL_URL", "from ls4_assets.room import x"],
)
def test_the_former_vocabulary_is_recognized(line: str) -> None:
    assert list(findings("x.py", line))


def test_readme_names_dagit_once() -> None:
    assert (CHECKOUT / "README.md").read_text().count("Dagit") == 1


def test_readme_and_docs_have_one_sentence_a_line() -> None:
    """A change of one sentence was a diff of a whole paragraph."""
    pages = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
    assert not [finding for page in pages for finding in two_sentences(page)]


def two_sentences(page: Path) -> Iterator[str]:
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        prose = not fenced and re.match(r"[A-Z]", line)
        if prose and re.search(r"[a-z)`]{2}\. [A-Z]", line):
            yield f"{page.name}:{number}: {line[:80]}"
