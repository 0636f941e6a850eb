"""Metadata of a frame's position for the Dagster UI: which file it came from, and how well control points fit."""

from collections.abc import Mapping
from typing import Any

import dagster as dg


def position_metadata(georeference: Mapping[str, Any] | None) -> dict[str, dg.MetadataValue]:
    """The metadata for the facts of `Georeference.facts`; empty for a frame that was made before they were recorded."""
    if not georeference:
        return {}
    text = f"from {georeference['position']}"
    if georeference["crs"] != georeference["position"]:
        text += f", coordinate system from {georeference['crs']}"
    if note := georeference.get("note"):
        text += f"; {note}"
    metadata: dict[str, dg.MetadataValue] = {"position": dg.MetadataValue.text(text)}
    if count := georeference.get("control_points"):
        points = f"{count} points, {georeference['transformation']}"
        if "rms_px" in georeference:
            rms = f"{georeference['rms_px']:.2f} px ({georeference['rms_m']:.2f} m)"
            worst = f"{georeference['max_px']:.2f} px ({georeference['max_m']:.2f} m)"
            points += f", residuals: root mean square {rms}, maximum {worst}"
        else:
            points += ", no residuals: too few points to check one with the others"
        metadata["control_points"] = dg.MetadataValue.text(points)
    return metadata
