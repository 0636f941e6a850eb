"""Frame profiles: validation of options, overview levels by image size, and hashes."""

import pytest
from pydantic import ValidationError

from ls4_assets.domain.film_types import FilmType
from ls4_assets.domain.products import STEPS, Step
from ls4_assets.domain.profiles import PROFILES, FrameProfile
from ls4_assets_tests.rasters import BW, NC


def test_default_profiles() -> None:
    assert (BW.bands, BW.cog_compression, BW.blocksize) == (1, "DEFLATE", 512)
    assert (NC.bands, NC.cog_compression, NC.jpeg_quality) == (3, "JPEG", 85)


@pytest.mark.parametrize(
    ("width", "height", "levels"),
    [
        (8192, 8192, (2, 4, 8, 16)),
        (8193, 100, (2, 4, 8, 16, 32)),
        (1024, 700, (2,)),
        (1025, 700, (2, 4)),
        (300, 200, (2,)),
    ],
)
def test_levels_double_until_one_fits_a_block(width: int, height: int, levels: tuple[int, ...]) -> None:
    assert BW.levels_for(width, height) == levels


def test_list_of_levels_also_ends_at_the_first_that_fits_a_block() -> None:
    legacy = FrameProfile(film_type="bw", cog_compression="DEFLATE", overview_levels=(2, 4, 8, 16, 32, 64))
    assert legacy.levels_for(7200, 7200) == (2, 4, 8, 16)
    assert legacy.levels_for(100_000, 100_000) == (2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize("levels", [(), (2, 3), (4, 2), (1, 2), (2, 2)])
def test_levels_must_be_increasing_powers_of_two(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="write e.g."):
        FrameProfile(film_type="bw", cog_compression="DEFLATE", overview_levels=levels)


@pytest.mark.parametrize(
    "options", [{"blocksize": 500}, {"jpeg_quality": 0}, {"resampling": "mode"}, {"zlevel": 6}, {"film_type": "rgb"}]
)
def test_invalid_or_misspelled_options_are_rejected(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FrameProfile.model_validate({"film_type": "nc", "cog_compression": "JPEG", **options})


def test_hash_changes_only_with_options_of_the_step_or_an_earlier_step() -> None:
    quality = NC.model_copy(update={"jpeg_quality": 70})
    assert quality.hash("deflate") == NC.hash("deflate")
    assert quality.hash("overviews") == NC.hash("overviews")
    assert quality.hash("cog") != NC.hash("cog")
    resampled = NC.model_copy(update={"resampling": "bilinear"})
    assert all(resampled.hash(step) != NC.hash(step) for step in ("deflate", "overviews", "cog"))
    averaged = NC.model_copy(update={"overview_resampling": "gauss"})
    assert averaged.hash("deflate") == NC.hash("deflate")
    assert averaged.hash("overviews") != NC.hash("overviews")


def test_jpeg_quality_does_not_affect_a_lossless_cog() -> None:
    assert BW.model_copy(update={"jpeg_quality": 70}).hash("cog") == BW.hash("cog")


@pytest.mark.parametrize(
    ("film_type", "hashes"),
    [
        ("bw", {"deflate": "31579473a675", "overviews": "0b96a541b891", "cog": "b69d67cba34b"}),
        ("nc", {"deflate": "5b2b8ba025ec", "overviews": "45d5d2a12db9", "cog": "2ac2342b7740"}),
    ],
)
def test_hashes_of_published_frames_stay(film_type: FilmType, hashes: dict[Step, str]) -> None:
    """They are stored with every product: another value makes the whole archive stale."""
    assert {step: PROFILES[film_type].hash(step) for step in STEPS} == hashes


def test_hashes_differ_between_film_types_and_steps() -> None:
    hashes = {profile.hash(step) for profile in (BW, NC) for step in ("deflate", "overviews", "cog")}
    assert len(hashes) == 6
    assert all(len(text) == 12 and int(text, 16) >= 0 for text in hashes)


def test_hash_changes_with_the_pixel_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = BW.hash("deflate")
    monkeypatch.setattr("ls4_assets.domain.profiles.PIXELS_VERSION", 9999)
    assert BW.hash("deflate") != before
