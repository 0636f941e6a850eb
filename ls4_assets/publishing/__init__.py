"""What people take away: footprints as GeoJSON and GeoParquet, a STAC catalog, mosaics for GDAL; of each collection, and of all.

Everything here is derived from what Postgres holds, and may be deleted: it is made anew. No map waits for it.
"""
