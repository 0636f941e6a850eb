"""The map server: mapfiles, tile documents, the MapServer and nginx configuration, the FastCGI workers and the mapfile sidecar.

Image processing is in `ls4_assets.raster`; deciding when a collection is published is in `ls4_assets.publishing`.
"""
