"""What a frame's materialisation says of its making, in the tags by which the Dagster UI tells which partitions are out of date.

A frame is stale in the Dagster UI when its code version is not the one in force (a profile was changed) or an input has got another data
version since (a new scan was dropped). Events that an operation yields itself bear such tags only if it writes them: here, and
nowhere else.

The code version of an asset is one for all its partitions, and each band has a profile of its own: it names both. So after a
change of one band's profile the Dagster UI calls frames of the other band stale as well; `ls4 status` and `ls4 rematerialize --stale`,
which go by the profile that each frame was made with, do not (ls4_assets/db/stale.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from ls4_assets.assets import keys
from ls4_assets.db.frames import Product
from ls4_assets.domain.names import FILM_TYPES, STEPS, Step
from ls4_assets.processing.tasks import Outcome
from ls4_assets.settings import Profiles


def code_version(profiles: Profiles, step: Step) -> str:
    """Of an asset: the profiles of both bands, as far as they matter to the step."""
    return "-".join(f"{film_type}.{profiles[film_type].hash(step)}" for film_type in FILM_TYPES)


def data_version(product: Product) -> str:
    return f"{product.content[:16]}-{product.profile}"


@dataclass(frozen=True)
class Provenance:
    """Of what one run makes: `steps`, under these profiles, out of events up to `seen` in Dagster's log."""

    profiles: Profiles
    steps: Sequence[Step]
    seen: int | None

    @classmethod
    def of_run(cls, context: dg.AssetExecutionContext, profiles: Profiles, steps: Sequence[Step]) -> "Provenance":
        """Read how far Dagster's log has come, once a run: an event each would cost a connection a frame."""
        return cls(profiles, steps, context.instance.event_log_storage.get_maximum_record_id())

    def tags(self, outcome: Outcome, step: Step) -> dict[str, str]:
        """Of the materialisation of one step of a frame."""
        products: Mapping[Step, Product] = outcome.products or {}
        tags = {
            DATA_VERSION_TAG: data_version(products[step]),
            DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
            CODE_VERSION_TAG: code_version(self.profiles, step),
        }
        shard, place = outcome.frame.collection.shard, STEPS.index(step)
        if place == 0:
            return tags | _input(keys.georef(shard), outcome.source.version if outcome.source else "", self.seen)
        before = STEPS[place - 1]
        if before not in products:
            return tags
        # What this very run makes has no number in the log yet. It has no other input than this run's own.
        seen = None if before in self.steps else self.seen
        return tags | _input(keys.product(shard, before), data_version(products[before]), seen)


def _input(asset: dg.AssetKey, version: str, seen: int | None) -> dict[str, str]:
    pointer = NULL_EVENT_POINTER if seen is None else str(seen)
    return {get_input_data_version_tag(asset): version, get_input_event_pointer_tag(asset): pointer}
