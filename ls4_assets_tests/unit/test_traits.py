"""Every trait of a dropped tif: the photograph comes out as it is, or a rejection that names the trait and whose advice works."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from ls4_assets.assets.frame_metadata import frame_metadata
from ls4_assets.db.frames import Product
from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.profiles import PROFILES
from ls4_assets.errors import FrameError
from ls4_assets.processing.tasks import FrameOutcome
from ls4_assets.raster.frame import FrameResult, process
from ls4_assets.raster.source import Limits
from ls4_assets.settings import AddressSettings
from ls4_assets_tests.platform import CHECKOUT
from ls4_assets_tests.rasters import read, read_mask, write_tif
from ls4_assets_tests.trait_pixels import collar
from ls4_assets_tests.traits import TRAITS, Trait

ACCEPTED = [trait for trait in TRAITS if not trait.rejection]
REJECTED = [trait for trait in TRAITS if trait.rejection]
ADVISED = [trait for trait in REJECTED if "command" in trait.outcome or "never written" in trait.name]
TURNED = Affine.translation(-10_880_000.0, 3_540_000.0) @ Affine.rotation(-5) @ Affine.scale(1, -1)


def deflate(path: Path, film_type: FilmType) -> tuple[Path, FrameResult]:
    work = path.parent / f"work-{path.stem}"
    result = process(path, work, path.stem, film_type, PROFILES[film_type], Limits(), steps=("deflate",))
    leftovers = [each.name for each in (work / "deflate").iterdir() if each.name != path.name]
    assert not leftovers
    return work / "deflate" / path.name, result


@pytest.mark.parametrize("trait", ACCEPTED, ids=lambda trait: trait.id)
def test_accepted_trait_shows_the_photograph(tmp_path: Path, trait: Trait) -> None:
    path = tmp_path / "x.tif"
    truth = trait.make(path)
    assert truth is not None
    pixels, valid = truth
    before = path.read_bytes()
    tif, _ = deflate(path, trait.film_type)
    assert path.read_bytes() == before, "the dropped file must not be changed"
    valid = np.ones(pixels.shape[1:], bool) if valid is None else valid
    assert (read_mask(tif) == valid).all()
    difference = np.abs(read(tif).astype(int) - pixels)[:, valid]
    assert difference.max() <= trait.tolerance


@pytest.mark.parametrize("trait", ACCEPTED, ids=lambda trait: trait.id)
def test_accepted_trait_is_reprojected_as_a_plain_scan(tmp_path: Path, trait: Trait) -> None:
    """The two ways to read a scan gave different pixels: one of them skipped the conversion."""
    path = tmp_path / "x.tif"
    truth = trait.make(path)
    assert truth is not None
    pixels, valid = truth
    for suffix in (path, write_tif(tmp_path / "plain.tif", pixels, mask=valid)):
        turn(suffix)
    converted, _ = deflate(path, trait.film_type)
    plain, _ = deflate(tmp_path / "plain.tif", trait.film_type)
    assert read(converted).shape == read(plain).shape
    both = read_mask(converted) & read_mask(plain)
    assert (read_mask(converted) != read_mask(plain)).mean() < 0.001
    difference = np.abs(read(converted).astype(int) - read(plain))[:, both]
    assert difference.mean() <= trait.tolerance / 4
    assert difference.max() <= 2 * trait.tolerance


def turn(path: Path) -> None:
    """Give every image of the file another geotransform, in a world file and a .prj: most files cannot be edited in place."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        places = [
            (tag.offset, tif.byteorder)
            for page in [*tif.pages, *(sub for page in tif.pages for sub in (page.pages or ()))]
            for tag in page.tags.values()
            if tag.code in (33550, 33922, 34264, 34735, 34736, 34737)
        ]
    with path.open("r+b") as file:
        for number, (offset, order) in enumerate(places):
            file.seek(offset)
            # A private tag, which no reader uses.
            file.write((65_000 + number % 500).to_bytes(2, "little" if order == "<" else "big"))
    numbers = (TURNED.a, TURNED.d, TURNED.b, TURNED.e, TURNED.c, TURNED.f)
    path.with_suffix(".tfw").write_text("\n".join(repr(float(number)) for number in numbers))
    path.with_suffix(".prj").write_text(rasterio.crs.CRS.from_epsg(3857).to_wkt())


@pytest.mark.parametrize("trait", REJECTED, ids=lambda trait: trait.id)
def test_rejected_trait_is_named(tmp_path: Path, trait: Trait) -> None:
    path = tmp_path / "x.tif"
    trait.make(path)
    message = rejection(path, trait.film_type)
    assert trait.rejection in message
    assert message.startswith("x.tif") and message.endswith(".") and "\n" not in message and "; " in message


def rejection(path: Path, film_type: FilmType) -> str:
    with pytest.raises(FrameError) as caught:
        deflate(path, film_type)
    assert not list(path.parent.glob("work-*/**/*.tif"))
    return str(caught.value)


def commands(message: str) -> list[list[str]]:
    """The options of every gdal_translate that a message names."""
    found = re.findall(r"gdal_translate((?: (?:-\w+(?: [A-Z\d]\w*(?:=\w+)?| gray| rgb)?|GTIFF_DIR:\S+))*)", message)
    return [options.split() for options in found]


@pytest.mark.skipif(shutil.which("gdal_translate") is None, reason="needs GDAL's commands")
@pytest.mark.parametrize(
    "trait", [*ADVISED, *(trait for trait in REJECTED if "never written" in trait.name)], ids=lambda trait: trait.id
)
def test_advice_of_a_rejection_works(tmp_path: Path, trait: Trait) -> None:
    """The advice for a 1-bit scan, followed twice, ended with a black file."""
    path = tmp_path / "x.tif"
    trait.make(path)
    found = commands(rejection(path, trait.film_type))
    assert found
    for number, options in enumerate(found):
        out = tmp_path / f"advised{number}.tif"
        source = [] if any(option.startswith("GTIFF_DIR") for option in options) else ["x.tif"]
        subprocess.run(["gdal_translate", "-q", *options, *source, out.name], cwd=tmp_path, check=True)
        tif, _ = deflate(out, trait.film_type)
        valid = read(tif)[:, read_mask(tif)]
        assert np.ptp(valid) > 100, "the photograph must still be visible"


FOLLOWED_ELSEWHERE = {
    "gdal_translate -of GTiff -mo {_MASK_FLAGS}=2 {sidecar.name} fixed.msk and drop fixed.msk as {sidecar.name}, or delete it. "
    "(source.py)": "test_mask_without_a_mark_is_rejected_and_the_command_marks_it",
    "gdal_translate and drop the result. (tiff_structure.py)": "test_raster_bounds.py::test_number_of_images_is_limited",
    "gdal_translate -co TILED=YES and drop the result. (tiff_structure.py)": (
        "test_raster_bounds.py::test_number_of_strips_is_limited"
    ),
    "gdalwarp -nomd and drop the result. (tiff_structure.py)": "test_raster_bounds.py::test_size_of_metadata_is_limited",
}
"""Commands that another test follows, as they stand in a message (and the module), with the test."""


def commands_in_the_code() -> set[str]:
    found = set()
    # That of position.py is followed in test_raster_bounds.py.
    paths = [path for path in (CHECKOUT / "ls4_assets" / "raster").glob("*.py") if path.name != "position.py"]
    for path in paths:
        # Without the breaks between adjacent literals.
        text = re.sub(r'"\s+f?"', "", path.read_text())
        for message in re.findall(r"FrameError\((.*?)\n\s*\)", text, re.DOTALL) + re.findall(
            r'return \(\s*f?"(.*?)"\s*\)', text, re.DOTALL
        ):
            found |= {f"{command} ({path.name})" for command in re.findall(r"gdal(?:_translate|warp|_edit)[^\";]*", message)}
    return found


def test_every_command_in_a_message_is_followed(tmp_path: Path) -> None:
    """A message gave a command that nobody had ever run."""
    messages = []
    for number, trait in enumerate(ADVISED):
        folder = tmp_path / str(number)
        folder.mkdir()
        trait.make(folder / "x.tif")
        messages.append(rejection(folder / "x.tif", trait.film_type))
    found = commands_in_the_code()
    assert len(found) >= 8
    for command in found - {*FOLLOWED_ELSEWHERE}:
        pattern = re.sub(r"\\{[^}]*\\}", ".+", re.escape(command.rpartition(" (")[0]))
        assert any(re.search(pattern, message) for message in messages), f"no trait is rejected with: {command}"
    assert {*FOLLOWED_ELSEWHERE} <= found, "a message was reworded"


@pytest.mark.skipif(shutil.which("gdal_translate") is None, reason="needs GDAL's commands")
def test_command_for_one_range_of_a_roll_works(tmp_path: Path) -> None:
    """docs/reference/files.md gives it."""
    (command,) = re.findall(r"^gdal_translate .*", (CHECKOUT / "docs" / "reference" / "files.md").read_text(), re.MULTILINE)
    trait = next(trait for trait in TRAITS if trait.name == "uint16 of which 12 bits are used")
    truth = trait.make(tmp_path / "scan.tif")
    assert truth is not None
    subprocess.run([*command.split()], cwd=tmp_path, check=True)
    tif, result = deflate(tmp_path / command.split()[-1], "bw")
    assert result.conversion is None
    assert np.abs(read(tif).astype(int) - truth[0]).max() <= 1


@pytest.mark.skipif(shutil.which("gdal_translate") is None, reason="needs GDAL's commands")
def test_mask_without_a_mark_is_rejected_and_the_command_marks_it(tmp_path: Path) -> None:
    """A mask that another program had written was ignored, and its collar was on the map."""
    trait = next(trait for trait in TRAITS if "without GDAL's mark" in trait.name)
    path = tmp_path / "x.tif"
    trait.make(path)
    found = re.search(r"with (gdal_translate .*) and drop", rejection(path, "bw"))
    assert found
    subprocess.run(found[1].split(), cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "fixed.msk").replace(tmp_path / "x.tif.msk")
    tif, _ = deflate(path, "bw")
    assert (read_mask(tif) == collar()).all()


def test_materialization_shows_the_stretch(tmp_path: Path) -> None:
    """The numbers of a stretch were in no place where staff could read them."""
    trait = next(trait for trait in TRAITS if trait.name == "uint16 of which 12 bits are used")
    trait.make(tmp_path / "x.tif")
    _, result = deflate(tmp_path / "x.tif", "bw")
    frame = Frame(Collection("Travis", "USDA_1958", "frames"), "bw", "02-08-60_6-1")
    product = Product("hash", "profile", 1, "version", "run")
    outcome = FrameOutcome(frame, "made", None, None, "hash", {"deflate": product}, {}, result)
    addresses = AddressSettings(public_url="https://example.org", map_url="https://example.org")
    metadata = frame_metadata(outcome, "deflate", addresses, is_last=True)
    assert (metadata["stretch_black"].value, metadata["stretch_white"].value) == (0.0, 16 * 255.0)
    assert "uint16" in str(metadata["pixels"].value) and "percentiles" in str(metadata["pixels"].value)
