"""How a frame may be placed, from the settings: the same for a dropped frame and for `ls4 check`."""

from collections.abc import Mapping

from ls4_assets.domain.profiles import FrameProfile
from ls4_assets.raster.datums import DatumRules
from ls4_assets.raster.position import PositionOptions
from ls4_assets.settings import FileCheckSettings, Settings


def position_options(
    settings: Settings | FileCheckSettings, profile: FrameProfile, generations: Mapping[str, int]
) -> PositionOptions:
    """`generations`: in which order the files arrived, by suffix."""
    datums = DatumRules(settings.archive_description.assumed_datums, settings.datum_accuracy_m)
    return PositionOptions(generations, profile.gcp_transformation, settings.max_gcp_rms_px, datums)
