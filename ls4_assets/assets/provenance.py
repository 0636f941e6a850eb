"""Code version and data version tags of frame materializations, from which Dagster computes which partitions are stale.

Dagster considers a frame stale when the asset's code version has changed (a profile was edited) or an input has a new data
version (a new scan was dropped). Dagster adds these tags only to events that it creates, so ours get them here.

An asset has one code version for all partitions, but each film type has its own profile, so the code version names several. After
one profile changes, the Dagster UI also marks the frames of the other film types as stale. `ls4 status` and
`ls4 rematerialize --stale` compare each frame's own profile and do not (ls4_assets/db/stale.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from ls4_assets.assets import keys
from ls4_assets.db.frames import ADOPTED, Product
from ls4_assets.domain.film_types import FILM_TYPES
from ls4_assets.domain.products import Step, previous_step
from ls4_assets.domain.profiles import PROFILES, Profiles
from ls4_assets.processing.tasks import FrameOutcome
from ls4_assets.runtime.dagster_names import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    INPUT_DATA_VERSION_TAG,
    INPUT_EVENT_POINTER_TAG,
    NO_EVENT_POINTER,
)


def code_version(profiles: Profiles, step: Step) -> str:
    """Code version of a step's asset: the hashes of profiles for that step. `FilmTypeSpec.is_in_code_version` says which."""
    hashes = {film_type: profiles[film_type].hash(step) for film_type in FILM_TYPES}
    return "-".join(
        f"{film_type}.{hashes[film_type]}"
        for film_type, spec in FILM_TYPES.items()
        if spec.is_in_code_version or hashes[film_type] != PROFILES[film_type].hash(step)
    )


def data_version(product: Product) -> str:
    return f"{product.content[:16]}-{product.profile}"


def adopted_data_version(product: Product) -> str:
    """Data version of a COG that ls4 took over: its content and profile are not known."""
    return f"{ADOPTED}-{product.version}"


@dataclass(frozen=True)
class Provenance:
    """Tags of what one run materializes.

    steps: the selected steps. last_event_id: the newest event in Dagster's log when the run started.
    """

    profiles: Profiles
    steps: Sequence[Step]
    last_event_id: int | None

    @classmethod
    def from_run(cls, context: dg.AssetExecutionContext, profiles: Profiles, steps: Sequence[Step]) -> "Provenance":
        """Provenance with the newest event ID, read once per run because a lookup per frame would cost a connection each."""
        return cls(profiles, steps, context.instance.event_log_storage.get_maximum_record_id())

    def tags(self, outcome: FrameOutcome, step: Step) -> dict[str, str]:
        """Tags of the materialization of one step of a frame."""
        products: Mapping[Step, Product] = outcome.products or {}
        tags = {
            DATA_VERSION_TAG: data_version(products[step]),
            DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
            CODE_VERSION_TAG: code_version(self.profiles, step),
        }
        shard, previous = outcome.frame.collection.shard, previous_step(step)
        if previous is None:
            source_version = outcome.source.version if outcome.source else ""
            return tags | input_tags(keys.georef(shard), source_version, self.last_event_id)
        if previous not in products:
            return tags
        # The event of an input that this run materializes has no ID yet.
        event_id = None if previous in self.steps else self.last_event_id
        return tags | input_tags(keys.product(shard, previous), data_version(products[previous]), event_id)


def input_tags(asset: dg.AssetKey, version: str, event_id: int | None) -> dict[str, str]:
    """Tags of a materialization: which version of an input it was made from, and the newest event of the input by then."""
    name, pointer = asset.to_user_string(), NO_EVENT_POINTER if event_id is None else str(event_id)
    return {INPUT_DATA_VERSION_TAG.format(asset=name): version, INPUT_EVENT_POINTER_TAG.format(asset=name): pointer}
