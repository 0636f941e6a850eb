"""The statewide views in schema `public`, for the map server and the web page: one of all collections and one of all frames.

They read the pipeline's tables with the rights of their owner. The map server's role has no other access to those tables.
"""

from string import Formatter

from sqlalchemy import Connection, text

from ls4_assets.db.frame_names import acquired_sql, attribute_sql, parts_sql
from ls4_assets.domain.products import COG, THUMBNAIL

COLLECTIONS = """
CREATE OR REPLACE VIEW public.archive_collections AS
SELECT row_number() OVER (ORDER BY name)::integer AS oid,
       name, table_name, title, shard, agency, year, type, array_to_string(film_types, ' ') AS bands, frames,
       index_revision AS version, array_position(ARRAY['index', 'mosaic', 'frames'], type) AS rank, outline AS geom
  FROM ls4.collection
 WHERE published_at IS NOT NULL AND outline IS NOT NULL
"""

_STEM, _FILM_TYPE = "split_part(frame.id, '/', 5)", "split_part(frame.id, '/', 1)"


def _key_sql(template: str) -> str:
    """The object key of a product as an SQL expression. `template` is its key in `domain.products`."""
    values = {
        "folder": "regexp_replace(frame.id, '/[^/]*$', '')",
        "film_type": _FILM_TYPE,
        "stem": _STEM,
        "collection": "frame.collection",
    }
    parts = Formatter().parse(template)
    return " || ".join(f"'{text}'" + (f" || {values[name]}" if name else "") for text, name, _, _ in parts)


# The map draws in the order of `rank`, because index sheets and mosaics would hide the photographs, then of `year`, newest last;
# missions without a year are at the bottom. The columns after `interior` are for people who look for a photograph; because of the
# OFFSET a name is matched once, and not for each column.
FRAMES = f"""
CREATE OR REPLACE VIEW public.archive_frames AS
SELECT frame.id, frame.collection, collection.table_name, collection.year, frame.source_key,
       collection.served_root || frame.served_key AS served_location,
       array_position(ARRAY['index', 'mosaic', 'frames'], collection.type) AS rank, frame.footprint AS geom, frame.interior,
       collection.title, collection.shard, collection.agency, collection.type, collection.index_revision AS version,
       collection.shard || '/' || collection.partition AS folder,
       {_FILM_TYPE} AS film_type, {_STEM} AS stem,
       {acquired_sql("name.parts", "collection.year")} AS acquired,
       {attribute_sql("roll", "name.parts")} AS roll, {attribute_sql("frame_num", "name.parts")} AS frame_num,
       frame.transform[1] AS pixel_size,
       collection.public_url || '/' || {_key_sql(THUMBNAIL.key)} AS thumbnail,
       collection.public_url || '/' || {_key_sql(COG.key)} AS dl_georef,
       collection.public_url || '/' || {_key_sql("{folder}/scanned/")} || frame.scan_file AS dl_orig
  FROM ls4.frame JOIN ls4.collection ON collection.name = frame.collection
 CROSS JOIN LATERAL (SELECT CASE WHEN collection.type = 'frames' THEN {parts_sql(_STEM)} END AS parts OFFSET 0) AS name
 WHERE collection.published_at IS NOT NULL AND frame.indexed_revision > 0
   AND frame.served_key IS NOT NULL AND frame.footprint IS NOT NULL AND NOT frame.deleted
"""  # noqa: S608  # constants of this module


def create_views(connection: Connection) -> None:
    """Create or replace the views. The caller has set the role that owns the tables."""
    for view in (COLLECTIONS, FRAMES):
        # Not `text`: it would take the colons of patterns for parameters.
        connection.exec_driver_sql(view)


def drop_views(connection: Connection) -> None:
    """Drop the views before their tables change. In one transaction with `create_views` readers always see them."""
    for name in ("archive_frames", "archive_collections"):
        connection.execute(text(f"DROP VIEW IF EXISTS public.{name}"))
