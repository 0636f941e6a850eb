"""Processing of one frame, from its georef tif to its published products.

A run passes tasks to a pool of worker processes (`tasks`, `pool`). A worker (`worker`) reserves disk and memory (`admission`),
runs the raster steps, validates the result (`quality`) and publishes it (`products`). `raw_scans` finds the frame's raw scan,
`run_size` sizes the run's task on Fargate. The pixel code is in `ls4_assets.raster`, the Dagster assets in `ls4_assets.assets`.
"""
