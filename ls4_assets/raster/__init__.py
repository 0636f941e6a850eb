"""Raster processing of local files: the deflate tif, overviews and COG of a frame, and the overview mosaic of a collection.

`frame.process` runs the steps of one frame: `source` and `georeference` inspect the dropped file, `mask` finds its valid pixels,
`deflate`, `overviews` and `cog` write the products, `validate` and `fidelity` check them, `footprint` and `thumbnail` describe
them. The `overview_*` modules build the mosaic.

This package imports no Dagster and no storage. `ls4_assets.processing` fetches the inputs, publishes the products and runs the
worker processes, one frame at a time in each.
"""
