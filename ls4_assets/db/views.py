"""The statewide views in schema `public`, for the map server and the web page: one of all collections and one of all frames.

They read the pipeline's tables with the rights of their owner. The map server's role has no other access to those tables.
"""

from sqlalchemy import Connection, text

COLLECTIONS = """
CREATE OR REPLACE VIEW public.archive_collections AS
SELECT row_number() OVER (ORDER BY name)::integer AS oid,
       name, table_name, title, shard, agency, year, type, array_to_string(film_types, ' ') AS bands, frames,
       index_revision AS version, array_position(ARRAY['index', 'mosaic', 'frames'], type) AS rank, outline AS geom
  FROM ls4.collection
 WHERE published_at IS NOT NULL AND outline IS NOT NULL
"""

# The map draws in the order of `rank`, because index sheets and mosaics would hide the photographs, then of `year`, newest last;
# missions without a year are at the bottom.
FRAMES = """
CREATE OR REPLACE VIEW public.archive_frames AS
SELECT frame.id, frame.collection, collection.table_name, collection.year, frame.source_key,
       collection.served_root || frame.served_key AS served_location,
       array_position(ARRAY['index', 'mosaic', 'frames'], collection.type) AS rank, frame.footprint AS geom, frame.interior
  FROM ls4.frame JOIN ls4.collection ON collection.name = frame.collection
 WHERE collection.published_at IS NOT NULL AND frame.indexed_revision > 0
   AND frame.served_key IS NOT NULL AND frame.footprint IS NOT NULL AND NOT frame.deleted
"""


def create_views(connection: Connection) -> None:
    """Create or replace the views. The caller has set the role that owns the tables."""
    for view in (COLLECTIONS, FRAMES):
        connection.execute(text(view))


def drop_views(connection: Connection) -> None:
    """Drop the views before their tables change. In one transaction with `create_views` readers always see them."""
    for name in ("archive_frames", "archive_collections"):
        connection.execute(text(f"DROP VIEW IF EXISTS public.{name}"))
