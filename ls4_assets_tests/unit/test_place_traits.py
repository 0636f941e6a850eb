"""Every trait of the place of a dropped tif: it lies where it should, or a rejection names the trait and says what to do."""

from pathlib import Path

import numpy as np
import pytest
from rasterio.warp import transform as transform_points

from ls4_assets.domain.sidecars import SIDECARS
from ls4_assets.errors import FrameError
from ls4_assets.raster.georeference import Georeference
from ls4_assets.raster.position import PositionOptions
from ls4_assets.raster.source import Limits, open_source
from ls4_assets_tests.place_traits import PLACE_TRAITS, PlaceTrait
from ls4_assets_tests.sidecar_files import HEIGHT, TRANSFORM, UTM, WIDTH

ACCEPTED = [trait for trait in PLACE_TRAITS if not trait.rejection]
REJECTED = [trait for trait in PLACE_TRAITS if trait.rejection]


def inspect(path: Path, trait: PlaceTrait) -> Georeference:
    return open_source(path, "bw", Limits(), PositionOptions(dict.fromkeys(trait.late, 1))).georeference


@pytest.mark.parametrize("trait", ACCEPTED, ids=lambda trait: trait.id)
def test_accepted_trait_lies_at_its_place(tmp_path: Path, trait: PlaceTrait) -> None:
    georeference = inspect(trait.make(tmp_path), trait)
    assert georeference.position_source == trait.source
    if trait.shift_m is None:
        return
    for pixel in ((0, 0), (WIDTH, HEIGHT)):
        found = georeference.transform @ pixel
        xs, ys = transform_points(georeference.crs, UTM, [found[0]], [found[1]])
        right = TRANSFORM @ pixel
        assert np.hypot(xs[0] - right[0] - trait.shift_m, ys[0] - right[1]) < 0.1
    assert bool(georeference.position_note) == bool(trait.late)


@pytest.mark.parametrize("trait", REJECTED, ids=lambda trait: trait.id)
def test_rejected_trait_is_named(tmp_path: Path, trait: PlaceTrait) -> None:
    path = trait.make(tmp_path)
    with pytest.raises(FrameError) as caught:
        inspect(path, trait)
    message = str(caught.value)
    assert trait.rejection in message
    assert message.startswith("a.") and message.endswith(".") and "\n" not in message and "; " in message


def test_every_kind_of_sidecar_with_a_position_is_in_the_table() -> None:
    """A sidecar that the code reads and no table names is used by nobody."""
    named = {suffix for trait in PLACE_TRAITS for suffix in trait.sidecars}
    assert {kind.suffix for kind in SIDECARS if kind.is_text} <= named
