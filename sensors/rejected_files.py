"""The asset `rejected_files` and its check `nothing_rejected`, which the sensor `notifications` updates when the list changes."""

from collections.abc import Sequence

import dagster as dg

from ls4_assets.assets import keys
from ls4_assets.assets.markdown import entries
from ls4_assets.notifications.rejections import Rejection, RejectionCounts, count_rejections, list_rejections
from ls4_assets.settings import Settings
from resources.archive import Archive

NOTHING_REJECTED = "nothing_rejected"
# Maximum files in the table in the Dagster UI; the quarantine page lists more.
MAX_LISTED = 200
# Maximum files whose reason is in the description of the check.
_MAX_DESCRIBED = 3


@dg.asset_check(
    asset=keys.REJECTED_FILES,
    name=NOTHING_REJECTED,
    description="Every dropped file could be processed. Warns while files are rejected, within 20 s of a change.",
)
def nothing_rejected(archive: Archive) -> dg.AssetCheckResult:
    with archive.database.connect() as connection:
        evaluation = evaluate_rejections(count_rejections(connection), list_rejections(connection, _MAX_DESCRIBED))
    return dg.AssetCheckResult(
        passed=evaluation.passed,
        severity=evaluation.severity,
        description=evaluation.description,
        metadata=evaluation.metadata,
    )


def evaluate_rejections(counts: RejectionCounts, rejections: Sequence[Rejection]) -> dg.AssetCheckEvaluation:
    """Evaluation of `nothing_rejected`. `rejections` starts with the latest open files."""
    described = [entry for entry in rejections[:_MAX_DESCRIBED] if entry.resolved_at is None]
    sentences = [f"{entry.key}: {entry.reason} {entry.advice}" for entry in described]
    if rest := counts.open - len(described):
        sentences.append(f"{rest} more are in the list of rejected_files.")
    return dg.AssetCheckEvaluation(
        asset_key=keys.REJECTED_FILES,
        check_name=NOTHING_REJECTED,
        passed=not counts.open,
        severity=dg.AssetCheckSeverity.WARN,
        description="\n".join(sentences) if counts.open else None,
        metadata={"rejected": counts.open, "resolved": counts.resolved},
    )


def build_rejections_event(
    counts: RejectionCounts, rejections: Sequence[Rejection], settings: Settings
) -> dg.AssetMaterialization:
    """A materialization of the asset `rejected_files`, with the list in its metadata."""
    metadata: dict[str, dg.MetadataValue] = {
        "rejected": dg.MetadataValue.int(counts.open),
        "resolved": dg.MetadataValue.int(counts.resolved),
        "files": dg.MetadataValue.md(entries(map(_entry, rejections[:MAX_LISTED])) or "none"),
    }
    if rest := counts.open + counts.resolved - len(rejections[:MAX_LISTED]):
        metadata["not_shown"] = dg.MetadataValue.int(rest)
    if settings.staff_url:
        metadata["list"] = dg.MetadataValue.url(settings.staff_url)
    return dg.AssetMaterialization(keys.REJECTED_FILES, metadata=metadata, description=f"{counts.open} files are rejected")


def _entry(entry: Rejection) -> tuple[str, str]:
    first, last = f"{entry.first_seen:%Y-%m-%d %H:%M}", f"{entry.last_seen:%Y-%m-%d %H:%M}"
    seen = f"seen {first}" if first == last else f"seen {first} to {last}"
    return entry.key, f"{entry.reason} {entry.advice} ({entry.state}, {seen} UTC)"
