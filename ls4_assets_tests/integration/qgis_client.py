"""Headless QGIS: add layers, draw them, and identify features. Runs in the system's Python, which has QGIS, not in that of ls4.

stdin: {"folder": folder for the images, "layers": [{"name", "provider", "uri", "crs", "extent", "click"}]}. `crs` and `extent`
are those of the map canvas; `click` is a position in it or null. stdout: the results by layer name.
"""

import json
import sys
from pathlib import Path
from typing import Any

from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsErrorMessage,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsPointXY,
    QgsProject,
    QgsRaster,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

SIDE = 512


def process_layer(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Add the layer, draw it, and identify features at the click. The result of an invalid layer has QGIS's message."""
    vector = request["provider"] == "OAPIF"
    layer = (QgsVectorLayer if vector else QgsRasterLayer)(request["uri"], request["name"], request["provider"])
    if not layer.isValid():
        return {"valid": False, "message": layer.error().message(QgsErrorMessage.Text)}
    result: dict[str, Any] = {"valid": True}
    QgsProject.instance().addMapLayer(layer)
    result["errors"] = render(layer, request, folder / f"{request['name']}.png")
    if vector:
        names = layer.fields().names()
        result["features"] = [dict(zip(names, map(str, feature.attributes()), strict=True)) for feature in layer.getFeatures()]
    elif request["click"]:
        provider, size, extent = layer.dataProvider(), SIDE, QgsRectangle(*request["extent"])
        identified = provider.identify(QgsPointXY(*request["click"]), QgsRaster.IdentifyFormatHtml, extent, size, size)
        result["click"] = identified.results() and str(next(iter(identified.results().values())))
    return result


def render(layer: Any, request: dict[str, Any], image: Path) -> list[str]:
    """Draw the map canvas as a PNG with a transparent background. Returns the errors of QGIS."""
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(QgsCoordinateReferenceSystem(request["crs"]))
    settings.setExtent(QgsRectangle(*request["extent"]))
    settings.setOutputSize(QSize(SIDE, SIDE))
    settings.setBackgroundColor(QColor(0, 0, 0, 0))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(str(image))
    return [error.message for error in job.errors()]


def main() -> None:
    request = json.load(sys.stdin)
    application = QgsApplication([], False)
    application.initQgis()
    results = {layer["name"]: process_layer(layer, Path(request["folder"])) for layer in request["layers"]}
    QgsProject.instance().clear()
    print(json.dumps(results))  # noqa: T201  # the output
    application.exitQgis()


main()
