COMMENT ON TABLE ls4.source IS 'georef tifs, one row per object key';
COMMENT ON COLUMN ls4.source.key IS 'object key of the georef tif';
COMMENT ON COLUMN ls4.source.state IS 'settling, queued, requested, done, failed, rejected or deleted';
COMMENT ON COLUMN ls4.source.reason IS 'reason of the rejection or failure, written for staff';
COMMENT ON COLUMN ls4.source.version IS 'fingerprint of the tif and its sidecars';
COMMENT ON COLUMN ls4.source.size IS 'size of the tif in bytes';
COMMENT ON COLUMN ls4.source.sidecars IS 'object keys of the sidecars';
COMMENT ON COLUMN ls4.source.frame IS 'id of the frame; null when rejected by name';
COMMENT ON COLUMN ls4.source.collection IS 'name of the collection';
COMMENT ON COLUMN ls4.source.partition IS 'Dagster partition key; null once the partition of a deleted source is removed';
COMMENT ON COLUMN ls4.source.batch IS 'id of the last batch that claimed the source';
COMMENT ON COLUMN ls4.source.attempts IS 'number of runs of this version that crashed';
COMMENT ON COLUMN ls4.source.version_count IS 'number of versions seen under this key';
COMMENT ON COLUMN ls4.source.missing_since IS 'time of the first complete listing without the key';
COMMENT ON COLUMN ls4.source.deletion_held_at IS 'start of the wait for the operator to confirm the deletion';
COMMENT ON COLUMN ls4.source.retry_after IS 'earliest time of the next run; the backoff grows with each crash';
COMMENT ON COLUMN ls4.source.pending_since IS 'start of the wait for this version''s products; null: not waiting';

COMMENT ON TABLE ls4.frame IS 'products of each frame, of its last valid version';
COMMENT ON COLUMN ls4.frame.id IS 'film_type/shard/survey/type/stem';
COMMENT ON COLUMN ls4.frame.content_hash IS 'SHA-256 of the tif and its sidecars';
COMMENT ON COLUMN ls4.frame.products IS 'per step: content, profile, size, version, run';
COMMENT ON COLUMN ls4.frame.profile IS 'profile hash of the COG; covers all options';
COMMENT ON COLUMN ls4.frame.scan_file IS 'file name of the raw scan; null: none found';
COMMENT ON COLUMN ls4.frame.width IS 'width of the COG in pixels';
COMMENT ON COLUMN ls4.frame.height IS 'height of the COG in pixels';
COMMENT ON COLUMN ls4.frame.transform IS 'affine transform of the COG in EPSG:3857, six numbers in rasterio order';
COMMENT ON COLUMN ls4.frame.valid_share IS 'valid pixels over all pixels of the COG, 0 to 1';
COMMENT ON COLUMN ls4.frame.served_key IS 'object key of the COG on the map, unique for each version';
COMMENT ON COLUMN ls4.frame.public_version IS 'version of the COG under the public key, replaced once the map reads the new one';
COMMENT ON COLUMN ls4.frame.deleted IS 'source deleted; removed by the next rebuild';
COMMENT ON COLUMN ls4.frame.revision IS 'counter of changes that affect the tile index';
COMMENT ON COLUMN ls4.frame.indexed_revision IS 'revision in the tile index';
COMMENT ON COLUMN ls4.frame.exported_revision IS 'revision in the STAC item';

COMMENT ON TABLE ls4.collection IS 'what is published of each collection';
COMMENT ON COLUMN ls4.collection.table_name IS 'name of the tile index: the collection''s in lower case';
COMMENT ON COLUMN ls4.collection.public_url IS 'base URL of the links in the tile index';
COMMENT ON COLUMN ls4.collection.served_root IS 'prefix of `served_location`: a folder, or /vsis3/<bucket>/';
COMMENT ON COLUMN ls4.collection.frames IS 'number of rows in the tile index';
COMMENT ON COLUMN ls4.collection.film_types IS 'film types in the tile index, sorted';
COMMENT ON COLUMN ls4.collection.outline IS 'convex hull of all footprints; null: no frames';
COMMENT ON COLUMN ls4.collection.index_revision IS 'revision of the tile index, ascending';
COMMENT ON COLUMN ls4.collection.indexed_at IS 'time of the last change of the tile index';
COMMENT ON COLUMN ls4.collection.files_revision IS 'index revision in the shapefile';
COMMENT ON COLUMN ls4.collection.map_revision IS 'index revision of the mapfile';
COMMENT ON COLUMN ls4.collection.published_at IS 'time the mapfile was last written; null: no map';
COMMENT ON COLUMN ls4.collection.withdrawn_at IS 'time the last frame left; null: not withdrawn';
COMMENT ON COLUMN ls4.collection.requested_at IS 'time of the last rebuild request';
COMMENT ON COLUMN ls4.collection.attempts IS 'rebuilds requested since the last success';
COMMENT ON COLUMN ls4.collection.raw_scans_checked_at IS 'time of the last search of scanned/ for missing raw scans';

COMMENT ON TABLE ls4.overview_mosaic IS 'last overview mosaic of each collection';
COMMENT ON COLUMN ls4.overview_mosaic.revision IS 'index revision in the mosaic';
COMMENT ON COLUMN ls4.overview_mosaic.attempts IS 'builds since the last that left no frame out';
COMMENT ON COLUMN ls4.overview_mosaic.key IS 'object key of the COG, on the map or not; null: none';
COMMENT ON COLUMN ls4.overview_mosaic.format_version IS 'tiles are reused only from a mosaic of the same format';
COMMENT ON COLUMN ls4.overview_mosaic.zoom IS 'resolution, as a web map zoom level';

COMMENT ON TABLE ls4.overview_mosaic_frame IS 'frames in the last overview mosaic, with their bounds in EPSG:3857';
COMMENT ON COLUMN ls4.overview_mosaic_frame.served_location IS 'GDAL path of the painted COG';

COMMENT ON TABLE ls4.rejection IS 'history of rejected and failed sources';
COMMENT ON COLUMN ls4.rejection.key IS 'object key of the georef tif';
COMMENT ON COLUMN ls4.rejection.kind IS 'rejected: invalid name; failed: invalid content';
COMMENT ON COLUMN ls4.rejection.scope IS 'name of the collection; the folder when the key names no collection';
COMMENT ON COLUMN ls4.rejection.reason IS 'reason and fix, written for staff';
COMMENT ON COLUMN ls4.rejection.version IS 'version last rejected';
COMMENT ON COLUMN ls4.rejection.occurrences IS 'number of rejections while open';
COMMENT ON COLUMN ls4.rejection.first_seen IS 'time of the first rejection';
COMMENT ON COLUMN ls4.rejection.last_seen IS 'time of the last rejection';
COMMENT ON COLUMN ls4.rejection.resolved_at IS 'time of the resolution; null: open';
COMMENT ON COLUMN ls4.rejection.resolved_by IS 'accepted version; null: the file was renamed or removed';

COMMENT ON TABLE ls4.failed_run IS 'failed runs without a later success';
COMMENT ON COLUMN ls4.failed_run.kind IS 'rebuild: rebuild of a collection; run: any other run';
COMMENT ON COLUMN ls4.failed_run.scope IS 'target of the run; a later success on the same target deletes the row';
COMMENT ON COLUMN ls4.failed_run.run IS 'id of the last failed run';
COMMENT ON COLUMN ls4.failed_run.failed_at IS 'time of the first failure since the last success';

COMMENT ON TABLE ls4.notification IS 'last notification of each incident';
COMMENT ON COLUMN ls4.notification.kind IS 'kind of the incident';
COMMENT ON COLUMN ls4.notification.scope IS 'collection, folder or target of the incident';
COMMENT ON COLUMN ls4.notification.item_count IS 'number of files or frames in the last notification';
COMMENT ON COLUMN ls4.notification.latest_at IS 'time of the newest event notified';
COMMENT ON COLUMN ls4.notification.notified_at IS 'time the last notification was sent';
COMMENT ON COLUMN ls4.notification.resolved_at IS 'time the resolution was sent; null: open';

COMMENT ON TABLE ls4.export_state IS 'exports of each collection';
COMMENT ON COLUMN ls4.export_state.revision IS 'index revision in the exports';
COMMENT ON COLUMN ls4.export_state.frames IS 'number of exported frames; 0: no exports';
COMMENT ON COLUMN ls4.export_state.format_version IS 'items of unchanged frames are reused only within the same format';
COMMENT ON COLUMN ls4.export_state.attempts IS 'exports requested since the last success';

COMMENT ON TABLE ls4.statewide_build IS 'last build of the statewide files';
COMMENT ON COLUMN ls4.statewide_build.inputs_digest IS 'digest of the collections'' exports in the statewide files';
COMMENT ON COLUMN ls4.statewide_build.seconds IS 'duration of the last build in seconds';
COMMENT ON COLUMN ls4.statewide_build.attempts IS 'builds started since the last success';

COMMENT ON TABLE ls4.inbox IS 'object keys from bucket events, waiting for a check';
COMMENT ON COLUMN ls4.inbox.key IS 'object key named by events, not yet checked';
COMMENT ON COLUMN ls4.inbox.events IS 'number of events since the last check';
COMMENT ON COLUMN ls4.inbox.since IS 'time of the first event';
COMMENT ON COLUMN ls4.inbox.retry_after IS 'earliest time of the next check; later when the folder could not be listed';
COMMENT ON COLUMN ls4.inbox.attempts IS 'number of failed checks';

COMMENT ON TABLE public.overview_mosaics IS 'overview mosaics on the map';
COMMENT ON COLUMN public.overview_mosaics.served_location IS 'GDAL path by which MapServer opens the COG';
COMMENT ON COLUMN public.overview_mosaics.resolution IS 'meters per pixel in EPSG:3857';
COMMENT ON COLUMN public.overview_mosaics.frames IS 'number of frames in the mosaic';
COMMENT ON COLUMN public.overview_mosaics.geom IS 'outline of the collection';
