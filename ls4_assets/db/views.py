"""The statewide views, in schema `public` for the map server and the page: all collections, and all frames, in one table each.

They read the pipeline's own tables by the rights of their owner; the map server's role sees no more of those than stands here.
"""

from sqlalchemy import Connection, text

COLLECTIONS = """
CREATE OR REPLACE VIEW public.archive_collections AS
SELECT row_number() OVER (ORDER BY name)::integer AS oid,
       name, table_name, title, shard, agency, year, type, array_to_string(bands, ' ') AS bands, frames,
       index_revision AS version, outline AS geom
  FROM ls4.collection
 WHERE published_at IS NOT NULL AND outline IS NOT NULL
"""

# Newest year last, as the map draws in this order; missions without a year lie under all.
FRAMES = """
CREATE OR REPLACE VIEW public.archive_frames AS
SELECT frame.id, frame.collection, collection.table_name, collection.year, frame.source_key,
       collection.served_root || frame.served_key AS served_location, frame.footprint AS geom
  FROM ls4.frame JOIN ls4.collection ON collection.name = frame.collection
 WHERE collection.published_at IS NOT NULL AND frame.indexed_revision > 0
   AND frame.served_key IS NOT NULL AND frame.footprint IS NOT NULL AND NOT frame.deleted
"""


def create_views(connection: Connection) -> None:
    """Make them; the caller has taken the role that owns the tables."""
    for view in (COLLECTIONS, FRAMES):
        connection.execute(text(view))


def drop_views(connection: Connection) -> None:
    """Before their tables change. In one transaction with `create_views` nobody ever misses them."""
    for name in ("archive_frames", "archive_collections"):
        connection.execute(text(f"DROP VIEW IF EXISTS public.{name}"))
