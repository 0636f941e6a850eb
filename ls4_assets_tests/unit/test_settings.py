"""Settings are read from environment and file, validated, and every wrong one is reported by name."""

from pathlib import Path

import dagster as dg
import pytest

from ls4_assets.domain.archive_file import read_archive_file
from ls4_assets.domain.film_types import FILM_TYPES, join_or
from ls4_assets.errors import ConfigurationError
from ls4_assets.settings import load_settings
from ls4_assets_tests.rasters import NC

REQUIRED = {
    "LS4_STORAGE": "/srv/archive",
    "LS4_DATABASE_URL": "postgresql+psycopg2://ls4:secret@db/ls4",
    "LS4_PUBLIC_URL": "https://cdn.test/",
    "LS4_MAP_URL": "https://maps.test",
}


@pytest.fixture(autouse=True)
def required_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LS4_CONFIG", raising=False)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)


def test_single_profile_option_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LS4_PROFILES__NC__JPEG_QUALITY", "90")
    monkeypatch.setenv("LS4_PROFILES__BW__OVERVIEW_LEVELS", "[2, 4, 8]")
    profiles = load_settings().profiles
    assert profiles["nc"] == NC.model_copy(update={"jpeg_quality": 90})
    assert profiles["bw"].overview_levels == (2, 4, 8)


@pytest.mark.parametrize(("name", "advice"), [("NCC", "did you mean nc"), ("RGB", f"use {join_or([*FILM_TYPES])}")])
def test_misspelled_film_type_is_rejected_with_advice(monkeypatch: pytest.MonkeyPatch, name: str, advice: str) -> None:
    """The profile of a misspelled film type was ignored silently."""
    monkeypatch.setenv(f"LS4_PROFILES__{name}__JPEG_QUALITY", "90")
    with pytest.raises(ConfigurationError, match=f"LS4_PROFILES: .*{name.lower()} is not a film type; {advice}"):
        load_settings()


def test_options_of_environment_and_file_are_merged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "ls4.toml"
    file.write_text("[profiles.cir]\njpeg_quality = 70\ndetect_collar = false\n[profiles.bw]\nblocksize = 256\n")
    monkeypatch.setenv("LS4_CONFIG", str(file))
    monkeypatch.setenv("LS4_PROFILES__CIR__DETECT_COLLAR", "true")
    profiles = load_settings().profiles
    assert (profiles["cir"].jpeg_quality, profiles["cir"].detect_collar, profiles["bw"].blocksize) == (70, True, 256)
    assert profiles["nc"] == NC


def test_environment_takes_precedence_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "ls4.toml"
    file.write_text('public_url = "https://file.test"\nbatch_size = 7\n[profiles.nc]\njpeg_quality = 70\n')
    monkeypatch.setenv("LS4_CONFIG", str(file))
    settings = load_settings()
    assert (settings.public_url, settings.batch_size, settings.profiles["nc"].jpeg_quality) == ("https://cdn.test", 7, 70)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LS4_BATCH_SIZE", "0"),
        ("LS4_PROFILES__NC__JPEG_QUALITY", "300"),
        ("LS4_PROFILES__BW__RESAMPLING", "smudge"),
        ("LS4_PROFILES__BW__ZLEVEL", "6"),
    ],
)
def test_invalid_setting_is_reported_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        load_settings()


def test_dagster_url_needs_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """The UI rejected its own host name, and advised to set the variable that was set."""
    monkeypatch.setenv("LS4_DAGSTER_URL", "dagster.example.org")
    with pytest.raises(ConfigurationError, match="LS4_DAGSTER_URL: .*such as https://dagster.example.org"):
        load_settings()


def test_missing_setting_is_reported_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LS4_STORAGE")
    with pytest.raises(ConfigurationError, match="LS4_STORAGE"):
        load_settings()


def test_password_is_not_in_the_repr() -> None:
    assert "secret" not in repr(load_settings())


def test_archive_file_is_read_and_an_empty_variable_means_the_shipped_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LS4_ARCHIVE_FILE", "")
    assert load_settings().archive_description == read_archive_file(None)
    file = tmp_path / "archive.toml"
    file.write_text('county = ["Adams", "Ashland"]\nagency = ["USDA"]\n')
    monkeypatch.setenv("LS4_ARCHIVE_FILE", str(file))
    assert load_settings().shards == {"Adams": "county", "Ashland": "county", "USDA": "agency"}


def test_misspelled_setting_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LS4_SETLE_SECONDS", "60")
    with pytest.raises(ConfigurationError, match="LS4_SETLE_SECONDS.*did you mean LS4_SETTLE_SECONDS"):
        load_settings()


def test_missing_file_is_reported_by_its_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="LS4_ARCHIVE_FILE"):
        read_archive_file(tmp_path / "none.toml")
    monkeypatch.setenv("LS4_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigurationError, match="LS4_CONFIG"):
        load_settings()


@pytest.mark.parametrize(
    ("value", "owners"),
    [
        ("team:imagery", ("team:imagery",)),
        ("ana@valley.example, team:Map Desk", ("ana@valley.example", "team:Map Desk")),
    ],
)
def test_owners_are_what_dagster_accepts(monkeypatch: pytest.MonkeyPatch, value: str, owners: tuple[str, ...]) -> None:
    monkeypatch.setenv("LS4_ASSET_OWNERS", value)
    assert load_settings().asset_owners == owners
    assert dg.AssetSpec("x", owners=owners).owners == owners


@pytest.mark.parametrize("value", ["operators", "team:", "ana@valley", "team:a,,team:b", ""])
def test_wrong_owner_is_reported_before_dagster_fails(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LS4_ASSET_OWNERS", value)
    with pytest.raises(ConfigurationError, match=r"LS4_ASSET_OWNERS.*is not an owner; use email addresses or team:name"):
        load_settings()


def test_owners_of_the_file_are_a_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "ls4.toml"
    file.write_text('asset_owners = ["ana@valley.example", "team:maps"]\n')
    monkeypatch.setenv("LS4_CONFIG", str(file))
    assert load_settings().asset_owners == ("ana@valley.example", "team:maps")
