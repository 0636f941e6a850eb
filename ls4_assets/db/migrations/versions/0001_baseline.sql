CREATE TABLE ls4.source (
    key TEXT COLLATE "C" NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    version TEXT NOT NULL,
    size BIGINT NOT NULL,
    sidecars JSONB DEFAULT '[]' NOT NULL,
    frame TEXT,
    shard TEXT,
    collection TEXT,
    partition TEXT,
    batch TEXT,
    attempts INTEGER DEFAULT '0' NOT NULL,
    first_seen TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    generation INTEGER DEFAULT '1' NOT NULL,
    gone_at TIMESTAMP WITH TIME ZONE,
    held_at TIMESTAMP WITH TIME ZONE,
    not_before TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (key)
);

CREATE INDEX source_refused ON ls4.source (key) WHERE state = 'refused';

CREATE INDEX source_held ON ls4.source (collection) WHERE held_at is not null and state <> 'deleted';

CREATE INDEX source_settling ON ls4.source (changed_at) WHERE state = 'settling';

CREATE INDEX source_failed ON ls4.source (collection, key) WHERE state = 'failed';

CREATE INDEX source_missing ON ls4.source (gone_at) WHERE gone_at is not null and held_at is null and state <> 'deleted';

CREATE INDEX source_leftover ON ls4.source (key) WHERE state = 'deleted' and partition is not null;

CREATE INDEX source_requested ON ls4.source (batch) WHERE state = 'requested';

CREATE INDEX source_collection ON ls4.source (collection, state) INCLUDE (size);

CREATE INDEX source_frame ON ls4.source (frame);

CREATE INDEX source_queued ON ls4.source (collection, changed_at, key) WHERE state = 'queued';

COMMENT ON COLUMN ls4.source.key IS 'key of the georef tif';

COMMENT ON COLUMN ls4.source.reason IS 'why it was refused or failed, in words for staff';

COMMENT ON COLUMN ls4.source.version IS 'of the tif and its sidecars together';

COMMENT ON COLUMN ls4.source.frame IS 'id of the frame; null when refused by name';

COMMENT ON COLUMN ls4.source.collection IS 'name of the collection';

COMMENT ON COLUMN ls4.source.batch IS 'the batch that was last requested for it';

COMMENT ON COLUMN ls4.source.attempts IS 'runs that died under this version';

COMMENT ON COLUMN ls4.source.generation IS 'versions that were ever seen under this key';

COMMENT ON COLUMN ls4.source.gone_at IS 'when a complete listing first no longer showed it';

COMMENT ON COLUMN ls4.source.held_at IS 'since when its deletion waits for a word of the operator';

COMMENT ON COLUMN ls4.source.not_before IS 'a source whose runs die is tried again ever more seldom';

CREATE TABLE ls4.frame (
    id TEXT NOT NULL,
    shard TEXT NOT NULL,
    collection TEXT NOT NULL,
    partition TEXT NOT NULL,
    source_key TEXT NOT NULL,
    source_version TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    products JSONB DEFAULT '{}' NOT NULL,
    scan_file TEXT,
    width INTEGER,
    height INTEGER,
    source_crs TEXT,
    valid_share DOUBLE PRECISION,
    footprint geometry(MULTIPOLYGON,3857),
    served_key TEXT,
    public_version TEXT,
    deleted BOOLEAN DEFAULT 'false' NOT NULL,
    revision INTEGER DEFAULT '1' NOT NULL,
    indexed_revision INTEGER DEFAULT '0' NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX frame_unindexed ON ls4.frame (collection, updated_at) WHERE revision <> indexed_revision or deleted;

CREATE INDEX idx_frame_footprint ON ls4.frame USING gist (footprint);

CREATE INDEX frame_collection ON ls4.frame (collection);

COMMENT ON COLUMN ls4.frame.id IS 'band/shard/second/type/stem';

COMMENT ON COLUMN ls4.frame.content_hash IS 'SHA-256 over the tif and its sidecars';

COMMENT ON COLUMN ls4.frame.products IS 'per step: content, profile, size, version, run';

COMMENT ON COLUMN ls4.frame.scan_file IS 'real file name of the raw scan, when there is one';

COMMENT ON COLUMN ls4.frame.served_key IS 'of the COG that the map reads; no two versions ever have the same';

COMMENT ON COLUMN ls4.frame.public_version IS 'of the COG under the public key, which follows when nobody reads the old one';

COMMENT ON COLUMN ls4.frame.deleted IS 'its source is gone; leaves with the next index';

COMMENT ON COLUMN ls4.frame.revision IS 'grows with each change that the index shows';

CREATE TABLE ls4.collection (
    name TEXT NOT NULL,
    shard TEXT NOT NULL,
    partition TEXT NOT NULL,
    table_name TEXT NOT NULL,
    public_url TEXT,
    served_root TEXT,
    title TEXT,
    agency TEXT,
    year INTEGER,
    type TEXT,
    frames INTEGER DEFAULT '0' NOT NULL,
    bands TEXT[] DEFAULT '{}' NOT NULL,
    outline geometry(GEOMETRY,3857),
    index_revision BIGINT DEFAULT '0' NOT NULL,
    indexed_at TIMESTAMP WITH TIME ZONE,
    files_revision BIGINT DEFAULT '0' NOT NULL,
    map_revision BIGINT DEFAULT '0' NOT NULL,
    published_at TIMESTAMP WITH TIME ZONE,
    withdrawn_at TIMESTAMP WITH TIME ZONE,
    requested_at TIMESTAMP WITH TIME ZONE,
    attempts INTEGER DEFAULT '0' NOT NULL,
    PRIMARY KEY (name),
    UNIQUE (table_name)
);

CREATE INDEX idx_collection_outline ON ls4.collection USING gist (outline);

COMMENT ON COLUMN ls4.collection.table_name IS 'names that differ by case only would share a table';

COMMENT ON COLUMN ls4.collection.public_url IS 'base of the links in the published index';

COMMENT ON COLUMN ls4.collection.served_root IS 'what stands before the keys in `served_location`: a folder, or /vsis3/<bucket>/';

COMMENT ON COLUMN ls4.collection.frames IS 'rows of the table';

COMMENT ON COLUMN ls4.collection.outline IS 'convex hull of all footprints; null: no frames';

COMMENT ON COLUMN ls4.collection.index_revision IS 'grows with each change of the table';

COMMENT ON COLUMN ls4.collection.indexed_at IS 'when the table last changed';

COMMENT ON COLUMN ls4.collection.files_revision IS 'of the table that the shapefile shows';

COMMENT ON COLUMN ls4.collection.map_revision IS 'of the table that the mapfile was made for';

COMMENT ON COLUMN ls4.collection.published_at IS 'when its map was last written; null: no map';

COMMENT ON COLUMN ls4.collection.withdrawn_at IS 'its last frame went; only its partition is left to remove';

COMMENT ON COLUMN ls4.collection.requested_at IS 'when its rebuild was last requested';

COMMENT ON COLUMN ls4.collection.attempts IS 'rebuilds requested since the last that ended well';

CREATE TABLE public.overview_mosaics (
    collection TEXT NOT NULL,
    table_name TEXT NOT NULL,
    served_location TEXT NOT NULL,
    resolution DOUBLE PRECISION NOT NULL,
    frames INTEGER NOT NULL,
    geom geometry(GEOMETRY,3857) NOT NULL,
    PRIMARY KEY (collection),
    UNIQUE (table_name)
);

CREATE INDEX idx_overview_mosaics_geom ON public.overview_mosaics USING gist (geom);

COMMENT ON COLUMN public.overview_mosaics.served_location IS 'path by which MapServer opens the COG';

COMMENT ON COLUMN public.overview_mosaics.resolution IS 'metres a pixel, in EPSG:3857';

COMMENT ON COLUMN public.overview_mosaics.frames IS 'that it shows';

COMMENT ON COLUMN public.overview_mosaics.geom IS 'around all of them';

CREATE TABLE ls4.overview_mosaic (
    collection TEXT NOT NULL,
    revision BIGINT DEFAULT '0' NOT NULL,
    attempts INTEGER DEFAULT '0' NOT NULL,
    key TEXT,
    form TEXT,
    zoom INTEGER,
    PRIMARY KEY (collection),
    FOREIGN KEY(collection) REFERENCES ls4.collection (name) ON DELETE CASCADE
);

COMMENT ON COLUMN ls4.overview_mosaic.revision IS 'of the index whose frames it shows';

COMMENT ON COLUMN ls4.overview_mosaic.attempts IS 'since the last that left no frame out';

COMMENT ON COLUMN ls4.overview_mosaic.key IS 'of the COG, whether or not it is on the map at the moment; null: none was made';

COMMENT ON COLUMN ls4.overview_mosaic.form IS 'what must be the same for its tiles to be taken over';

COMMENT ON COLUMN ls4.overview_mosaic.zoom IS 'its resolution, as a zoom of web maps';

CREATE TABLE ls4.overview_mosaic_frame (
    collection TEXT NOT NULL,
    oid INTEGER NOT NULL,
    served_location TEXT NOT NULL,
    source_version TEXT NOT NULL,
    minx DOUBLE PRECISION NOT NULL,
    miny DOUBLE PRECISION NOT NULL,
    maxx DOUBLE PRECISION NOT NULL,
    maxy DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (collection, oid),
    FOREIGN KEY(collection) REFERENCES ls4.overview_mosaic (collection) ON DELETE CASCADE
);

COMMENT ON COLUMN ls4.overview_mosaic_frame.served_location IS 'of the COG that was painted';
