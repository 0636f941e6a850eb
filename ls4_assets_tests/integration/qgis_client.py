"""What a person does in QGIS, without the window: run by the system's own Python, which has QGIS, and not by that of ls4.

stdin: {"folder": where the pictures go, "layers": [{"name", "provider", "uri", "crs", "extent", "click"}]}; crs and extent are
those of the map on the screen, click is a place in it or null. stdout: by layer name, what QGIS made of it.
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


def looked_at(asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Add the layer, look at it, and click; a layer that QGIS does not take says why."""
    vector = asked["provider"] == "OAPIF"
    layer = (QgsVectorLayer if vector else QgsRasterLayer)(asked["uri"], asked["name"], asked["provider"])
    if not layer.isValid():
        return {"valid": False, "said": layer.error().message(QgsErrorMessage.Text)}
    told: dict[str, Any] = {"valid": True}
    QgsProject.instance().addMapLayer(layer)
    told["errors"] = render(layer, asked, folder / f"{asked['name']}.png")
    if vector:
        names = layer.fields().names()
        told["features"] = [dict(zip(names, map(str, feature.attributes()), strict=True)) for feature in layer.getFeatures()]
    elif asked["click"]:
        provider, size, extent = layer.dataProvider(), SIDE, QgsRectangle(*asked["extent"])
        found = provider.identify(QgsPointXY(*asked["click"]), QgsRaster.IdentifyFormatHtml, extent, size, size)
        told["click"] = found.results() and str(next(iter(found.results().values())))
    return told


def render(layer: Any, asked: dict[str, Any], picture: Path) -> list[str]:
    """The map on the screen, as a PNG on a transparent ground; returns what QGIS complained of."""
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(QgsCoordinateReferenceSystem(asked["crs"]))
    settings.setExtent(QgsRectangle(*asked["extent"]))
    settings.setOutputSize(QSize(SIDE, SIDE))
    settings.setBackgroundColor(QColor(0, 0, 0, 0))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(str(picture))
    return [error.message for error in job.errors()]


def main() -> None:
    asked = json.load(sys.stdin)
    application = QgsApplication([], False)
    application.initQgis()
    told = {each["name"]: looked_at(each, Path(asked["folder"])) for each in asked["layers"]}
    QgsProject.instance().clear()
    print(json.dumps(told))  # noqa: T201  # the answer
    application.exitQgis()


main()
