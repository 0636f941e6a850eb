"""Each film type of FILM_TYPES is complete and reaches every consumer; no other module has a list of film types."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import rasterio
from rasterio.enums import ColorInterp

from docs.generate import blocks
from ls4_assets.assets.provenance import code_version
from ls4_assets.domain import film_types
from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.film_types import FILM_TYPES, CogCompression, FilmType
from ls4_assets.domain.key_parser import parse_collection_path, parse_georef_key
from ls4_assets.domain.names import Collection, Frame
from ls4_assets.domain.profiles import PROFILES
from ls4_assets.domain.regions import RegionBounds
from ls4_assets.errors import FrameError, InvalidNameError
from ls4_assets.ingest.listing import TOP_PRODUCTS, is_drop_key, is_unmounted
from ls4_assets.operations.adopt.cog_header import read_header
from ls4_assets.processing.quality import validate_frame
from ls4_assets.raster.frame import FrameResult, process
from ls4_assets.raster.source import Limits, open_source
from ls4_assets.settings import Settings, load_settings
from ls4_assets_tests.platform import CHECKOUT
from ls4_assets_tests.rasters import photograph, write_tif
from mapserver.config import PostgresService, write_config
from resources.directory_storage import DirectoryStorage

NAMING = read_archive_file(None).naming
COLLECTION = Collection("Travis", "USDA_1958", "frames")
STEM = "02-08-60_6-107"

every_film_type = pytest.mark.parametrize("film_type", FILM_TYPES)


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    monkeypatch.delenv("LS4_CONFIG", raising=False)
    required = {"STORAGE": "/srv/a", "DATABASE_URL": "postgresql://x", "PUBLIC_URL": "http://x", "MAP_URL": "http://x"}
    for name, value in {**required, **variables}.items():
        monkeypatch.setenv(f"LS4_{name}", value)
    return load_settings()


# The table


@every_film_type
def test_entry_is_complete(film_type: FilmType) -> None:
    spec = FILM_TYPES[film_type]
    # Keys, Dagster partitions, CSS and nginx's locations contain it.
    assert re.fullmatch(r"[a-z]{2,10}", film_type) and film_type not in TOP_PRODUCTS
    assert spec.bands in (1, 3), "overviews, COG and thumbnail are written with one or three bands"
    assert len(spec.color_interpretation) == spec.bands and {*spec.color_interpretation} <= {each.name for each in ColorInterp}
    assert spec.cog_compression in get_args(CogCompression)
    assert spec.palette_expansion == ("gray" if spec.bands == 1 else "rgb")
    assert re.fullmatch(r"keep .* gdal_translate( -b \d)+", spec.band_advice)
    assert spec.band_advice.count(" -b ") == spec.bands
    assert not spec.ignores_fourth_band or spec.bands == 3


def test_titles_and_aliases_are_unambiguous() -> None:
    titles = [spec.title for spec in FILM_TYPES.values()]
    names = [*FILM_TYPES, *(alias for spec in FILM_TYPES.values() for alias in spec.aliases)]
    assert len({*titles}) == len(titles) and len({*names}) == len(names)


def test_no_two_film_types_share_a_profile_hash() -> None:
    """A frame's film type decides which hash is the current one (db/stale.py)."""
    assert len({PROFILES[film_type].hash("cog") for film_type in FILM_TYPES}) == len(FILM_TYPES)


# Each consumer


@every_film_type
def test_key_is_parsed(film_type: FilmType) -> None:
    key = f"{film_type}/Travis/USDA_1958/frames/georef/{STEM}.tif"
    frame = parse_georef_key(key, NAMING)
    assert frame == Frame(COLLECTION, film_type, STEM) and frame.id.startswith(f"{film_type}/")
    assert Frame.from_id(frame.id) == Frame.from_partition("Travis", frame.partition) == frame
    assert parse_collection_path(f"{film_type}/Travis/USDA_1958/frames", NAMING) == (COLLECTION, film_type)
    assert is_drop_key(key)
    for misplaced in ("photos/x.tif", f"{film_type}/Travis/x.tif", "x.tif"):
        with pytest.raises(InvalidNameError, match=rf"\b{film_type}\b"):
            parse_georef_key(misplaced, NAMING)
    for alias in FILM_TYPES[film_type].aliases:
        with pytest.raises(InvalidNameError, match=f"move the file to {film_type}/Travis"):
            parse_georef_key(key.replace(film_type, alias, 1), NAMING)


@every_film_type
def test_profile_is_a_setting(film_type: FilmType, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = settings(monkeypatch, **{f"PROFILES__{film_type.upper()}__JPEG_QUALITY": "70"}).profiles
    assert profiles == {**PROFILES, film_type: PROFILES[film_type].model_copy(update={"jpeg_quality": 70})}
    assert (profiles[film_type].film_type, profiles[film_type].bands) == (film_type, FILM_TYPES[film_type].bands)


@every_film_type
def test_existing_archive_is_mounted(film_type: FilmType, tmp_path: Path) -> None:
    storage = DirectoryStorage(tmp_path)
    assert is_unmounted(storage)
    storage.put(f"{film_type}/Travis/x.tif", b"x")
    assert not is_unmounted(storage)


def processed(film_type: FilmType, folder: Path) -> FrameResult:
    source = write_tif(folder / "scan.tif", photograph(300, 320, FILM_TYPES[film_type].bands))
    return process(source, folder, STEM, film_type, PROFILES[film_type], Limits())


@every_film_type
def test_frame_is_processed_checked_and_adoptable(film_type: FilmType, tmp_path: Path) -> None:
    spec, result = FILM_TYPES[film_type], processed(film_type, tmp_path)
    findings = validate_frame(Frame(COLLECTION, film_type, STEM), result, RegionBounds(), result.valid_share)
    assert spec.required_bands in findings[0].measured
    cog = tmp_path / "cog" / f"{STEM}.tif"
    with rasterio.open(cog) as dataset:
        assert tuple(color.name for color in dataset.colorinterp) == spec.color_interpretation
        assert dataset.profile["compress"].upper().removeprefix("YCBCR ") == spec.cog_compression
    assert read_header(str(cog), cog.stat().st_size, film_type).has_mask == bool(result.valid_share != 1)


@every_film_type
def test_warped_frame_has_its_bands(film_type: FilmType, tmp_path: Path) -> None:
    pixels = photograph(120, 100, FILM_TYPES[film_type].bands)
    source = write_tif(tmp_path / "scan.tif", pixels, crs="EPSG:4326", transform=rasterio.Affine(1e-5, 0, -97.7, 0, -1e-5, 30.3))
    assert process(source, tmp_path, STEM, film_type, PROFILES[film_type], Limits()).cog_findings == ()


@every_film_type
@pytest.mark.parametrize("bands", [1, 2, 3, 5])
def test_wrong_number_of_bands_is_rejected_with_advice_that_works(film_type: FilmType, bands: int, tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", photograph(60, 50, bands), photometric="MINISBLACK")
    if bands == FILM_TYPES[film_type].bands:
        assert open_source(path, film_type, Limits()).bands == tuple(range(1, bands + 1))
        return
    with pytest.raises(FrameError) as error:
        open_source(path, film_type, Limits())
    fitting = {other for other, spec in FILM_TYPES.items() if spec.bands == bands}
    assert fitting == set(re.findall(r"under (\w+)/ if", str(error.value))) or bands in (2, 5)
    assert bands < 4 or FILM_TYPES[film_type].band_advice in str(error.value)


@every_film_type
def test_nginx_serves_the_public_part_of_a_folder(film_type: FilmType, tmp_path: Path) -> None:
    database = PostgresService("127.0.0.1", 5432, "ls4", "mapserver")
    archive = tmp_path / "archive"
    write_config(tmp_path / "run", port=8080, mapfiles_dir=archive / "mapfiles", archive_dir=archive, database=database)
    text = (tmp_path / "run" / "conf" / "nginx.conf").read_text()
    locations = [re.compile(match.replace("?<key>", "?P<key>")) for match in re.findall(r'"(\^/archive/[^"]*)"', text)]
    frame = Frame(COLLECTION, film_type, STEM)
    public = [frame.cog_key, f"{frame.scan_prefix}TIF", COLLECTION.tile_index_key(film_type, "_idx.zip")]
    private = [frame.deflate_key, f"{frame.folder}/georef/{STEM}.tif"]
    for key in (*public, *private):
        assert any(location.search(f"/archive/{key}") for location in locations) == (key in public), key


def test_documentation_has_every_film_type() -> None:
    content = blocks()
    assert re.findall(r"^\| `(\w+)` \|", content["film-types"], re.MULTILINE) == [*FILM_TYPES]
    assert content["profiles"].startswith(f"| option | {' | '.join(FILM_TYPES)} | meaning |")


# Dagster


def test_added_film_type_leaves_the_code_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Dagster UI marked a million frames as stale because a film type without a frame was added."""
    assert code_version(PROFILES, "cog") == "bw.b69d67cba34b-nc.2ac2342b7740"
    changed = settings(monkeypatch, PROFILES__CIR__JPEG_QUALITY="70").profiles
    assert code_version(changed, "cog") == f"bw.b69d67cba34b-nc.2ac2342b7740-cir.{changed['cir'].hash('cog')}"
    assert code_version(changed, "deflate") == code_version(PROFILES, "deflate")


# No other list of film types

PACKAGES = ("ls4_assets", "resources", "sensors", "mapserver", "deploy")
_NAMES = "|".join(FILM_TYPES)
# A film type as data: alone, as a folder, in a pattern. Complete keys (bw/Travis/...) are examples for people.
_AS_DATA = re.compile(rf"""(?<![\w-])(?:{_NAMES})(?:/?$|/["*{{%]|(?=\s*[|,)\]"'}}]))""")


def python_strings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every string of a module that is not a docstring."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a template, a script or a configuration file, without comments."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        yield number, re.sub(r"(^|\s)(//|#|/?\*).*", "", line)


def lists_of_film_types(path: Path) -> Iterator[str]:
    strings = python_strings(path) if path.suffix == ".py" else text_lines(path)
    yield from (f"{path}:{number}: {text!r}" for number, text in strings if _AS_DATA.search(text))


def test_no_other_module_names_film_types() -> None:
    suffixes = {".py", ".j2", ".js", ".mjs", ".html", ".toml", ".yaml", ".sh"}
    files = [path for package in PACKAGES for path in (CHECKOUT / package).rglob("*") if path.suffix in suffixes]
    skipped = ("node_modules", "static", "versions", "cdk.out")
    sources = [path for path in files if not {*skipped} & {*path.parts} and path != Path(film_types.__file__)]
    assert len(sources) > 150
    assert not [found for path in sources for found in lists_of_film_types(path)]


@pytest.mark.parametrize(
    ("suffix", "line"),
    [
        (".py", 'x = {"bw": 1}'),
        (".py", 'if x.startswith("nc/"): pass'),
        (".py", 'f"bw/*/cog/{x}"'),
        (".py", 'y = f"{bucket}/cir/{x}"'),
        (".js", "const TITLES = { bw: 1 }; const x = 'nc';"),
        (".j2", "location ~ (?:bw|nc)/"),
        (".toml", '"Resource::arn:aws:s3:::photographs/nc/*/cog/*" = "x"'),
    ],
)
def test_list_of_film_types_is_recognized(suffix: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_text(line)
    assert [*lists_of_film_types(path)]
