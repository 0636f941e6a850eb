"""Metadata of a frame's materializations, in the order in which the Dagster UI lists them.

People read the first ones: the place on the map, the thumbnail, the link. Names and hashes for programs are last. Every entry
takes space for each frame of the archive (test_event_size.py).
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ls4_assets.assets.frame_position import position_metadata
from ls4_assets.domain.links import build_links, map_page_url
from ls4_assets.domain.names import Frame
from ls4_assets.domain.products import Step
from ls4_assets.processing.tasks import FrameOutcome
from ls4_assets.raster.frame import FrameResult
from ls4_assets.settings import AddressSettings

Metadata = dict[str, dg.MetadataValue]

_UNITS = ("B", "kB", "MB", "GB", "TB")


def frame_metadata(outcome: FrameOutcome, step: Step, addresses: AddressSettings, *, is_last: bool) -> Metadata:
    """Metadata of one product. The last of the selected steps also has that of the frame."""
    product, result = (outcome.products or {})[step], outcome.result
    metadata: Metadata = link_metadata(outcome.frame, addresses) if step == "cog" else {}
    metadata["size"] = dg.MetadataValue.text(format_size(product.size))
    if is_last:
        metadata |= _photograph_metadata(outcome.facts or {}, result) | _work_metadata(outcome)
    if result and step in result.seconds:
        metadata["seconds"] = dg.MetadataValue.float(result.seconds[step])
        metadata["peak_memory_mb"] = dg.MetadataValue.float(result.peak_mb[step])
    metadata["key"] = dg.MetadataValue.text(outcome.frame.product_key(step))
    if is_last:
        metadata |= {
            "source_key": dg.MetadataValue.text(outcome.source.key if outcome.source else ""),
            "profile": dg.MetadataValue.text(product.profile),
            "source_version": dg.MetadataValue.text(outcome.source.version if outcome.source else ""),
            "source_sha256": dg.MetadataValue.text(outcome.content_hash),
        }
    return metadata


def link_metadata(frame: Frame, addresses: AddressSettings) -> Metadata:
    """Where people see the frame: on the map page, as a thumbnail, and the public COG."""
    return {
        "map": dg.MetadataValue.url(map_page_url(frame, addresses.map_url)),
        "thumbnail": dg.MetadataValue.url(f"{addresses.public_url}/{frame.thumbnail_key}"),
        "link": dg.MetadataValue.url(build_links(frame, addresses.public_url, None).dl_georef),
    }


def format_size(size_bytes: int) -> str:
    """A size as people read it, for example 1.2 MB; the prefixes are decimal, as in file managers and on bills for storage."""
    size, unit = float(size_bytes), _UNITS[0]
    for unit in _UNITS:
        # 999.95 would be printed as 1000.0.
        if size < 999.95 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size_bytes} B" if unit == _UNITS[0] else f"{size:.1f} {unit}"


def _photograph_metadata(facts: Mapping[str, Any], result: FrameResult | None) -> Metadata:
    """The size, place and pixels of the photograph."""
    metadata: Metadata = {}
    if "width" in facts:
        metadata["dimensions"] = dg.MetadataValue.text(f"{facts['width']} x {facts['height']}")
    if "source_crs" in facts:
        metadata["crs"] = dg.MetadataValue.text(f"EPSG:3857 (dropped in {facts['source_crs']})")
        metadata |= position_metadata(facts.get("georeference"))
        metadata["transformation"] = dg.MetadataValue.text(facts.get("transformation", "not known"))
        metadata["valid_share"] = dg.MetadataValue.float(round(facts["valid_share"], 4))
    if result and result.conversion:
        metadata["pixels"] = dg.MetadataValue.text(result.conversion.description)
        if stretch := result.conversion.stretch:
            metadata["stretch_black"] = dg.MetadataValue.float(stretch.low)
            metadata["stretch_white"] = dg.MetadataValue.float(stretch.high)
    if result and result.overview_levels:
        metadata["overview_levels"] = dg.MetadataValue.text(" ".join(map(str, result.overview_levels)))
    return metadata


def _work_metadata(outcome: FrameOutcome) -> Metadata:
    return {
        "work": dg.MetadataValue.text("built by this run" if outcome.status == "made" else "already up to date"),
        "frame_seconds": dg.MetadataValue.float(outcome.seconds),
        "fetch_seconds": dg.MetadataValue.float(outcome.fetch_seconds),
        "publish_seconds": dg.MetadataValue.float(outcome.publish_seconds),
    }
