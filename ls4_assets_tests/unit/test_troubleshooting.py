"""The troubleshooting page quotes messages: each quotation about odd files is in the code, and each message is on the page."""

import re
from pathlib import Path

import pytest

from ls4_assets_tests.platform import CHECKOUT
from resources.storage import Defect

PAGE = (CHECKOUT / "docs" / "how-to" / "troubleshooting.md").read_text()
CHAPTER = PAGE.partition("## Links, devices and other odd files\n")[2].partition("\n## ")[0]
MODULES = (
    "ls4_assets/raster/tiff_structure.py",
    "ls4_assets/raster/crs_files.py",
    "ls4_assets/domain/key_parser.py",
    "ls4_assets/raster/georeference.py",
    "ls4_assets/raster/position.py",
    "ls4_assets/raster/sidecar_readers.py",
    "ls4_assets/raster/source.py",
    "ls4_assets/processing/worker.py",
    "ls4_assets/processing/lost_workers.py",
    "ls4_assets/processing/admission.py",
    "ls4_assets/assets/frames.py",
    "ls4_assets/operations/status_text.py",
    "resources/storage.py",
    "resources/unfinished.py",
)


def messages(path: Path) -> str:
    """The source without the breaks between adjacent literals, so that a quotation is found across lines."""
    return re.sub(r'"\s+f?"', "", path.read_text()).replace("{MAX_IMAGES}", "256").replace("{max_bytes:,}", "1,000,000")


FIRST_COLUMN = "".join(row.split("|")[1] for row in CHAPTER.splitlines() if "|" in row)


@pytest.mark.parametrize("quotation", re.findall(r'"([^"]+)"', FIRST_COLUMN))
def test_quoted_message_is_in_the_code(quotation: str) -> None:
    """Staff search the page for the words that they see."""
    assert any(quotation in messages(CHECKOUT / module) for module in MODULES)


@pytest.mark.parametrize("defect", Defect)
def test_every_defect_is_on_the_page(defect: Defect) -> None:
    assert f'"{defect.problem}"' in CHAPTER


def test_every_bound_of_a_tif_is_on_the_page() -> None:
    """A new bound needs a row: its sentence has a quotation of the page in it."""
    quotations = re.findall(r'"([^"]+)"', CHAPTER)
    source = messages(CHECKOUT / MODULES[0])
    raised = re.findall(r"raise FrameError\((.*?)\n\s*\)", source, re.DOTALL)
    assert len(raised) == 6
    for sentence in raised:
        found = [quotation for quotation in quotations if quotation in sentence]
        assert found or "tags and the limit is" in sentence, sentence
