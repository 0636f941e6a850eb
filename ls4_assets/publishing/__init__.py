"""Publishing one collection, or all of them: which need a rebuild, public COGs, tile documents, and exports for download.

Exports are footprints (GeoJSON, GeoParquet), a STAC catalog and raster tile indexes for GDAL. All are derived from Postgres, so
they can be deleted and rebuilt, and no map waits for them. The tile index's SQL is in `db`, mapfiles are in `mapserver`, and
the assets that call this package are in `assets`.
"""
