"""The triggers on `source`: since when a version waits, and the history of rejections.

Many write a source's state: the look, workers, the release of dead batches, an operator's retry, adoption. A trigger sees all of
them, in their own transaction, so that the history lacks nothing that ever stood in the table.
"""

from sqlalchemy import Connection, text

_WAITING = """
CREATE OR REPLACE FUNCTION ls4.note_waiting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.state NOT IN ('settling', 'queued', 'requested') THEN
    NEW.pending_since := NULL;
  ELSIF TG_OP = 'INSERT' OR OLD.pending_since IS NULL OR NEW.version <> OLD.version THEN
    NEW.pending_since := now();
  END IF;
  RETURN NEW;
END $$
"""

# A source that is tried again stays rejected until it is taken: "it waits" is no good news yet.
_REJECTION = """
CREATE OR REPLACE FUNCTION ls4.note_rejection() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    UPDATE ls4.rejection SET resolved_at = now() WHERE key = OLD.key AND resolved_at IS NULL;
  ELSIF NEW.state IN ('rejected', 'failed') THEN
    INSERT INTO ls4.rejection AS known (key, kind, place, reason, version, first_seen, last_seen)
    VALUES (NEW.key, NEW.state, coalesce(NEW.collection, regexp_replace(NEW.key, '(/georef)?/[^/]+$', '')),
            coalesce(NEW.reason, ''), NEW.version, now(), now())
    ON CONFLICT (key) WHERE resolved_at IS NULL DO UPDATE
    SET kind = excluded.kind, place = excluded.place, reason = excluded.reason, version = excluded.version,
        last_seen = excluded.last_seen, times = known.times + 1;
  ELSE
    UPDATE ls4.rejection SET resolved_at = now(), resolved_by = CASE WHEN NEW.state = 'done' THEN NEW.version END
     WHERE key = NEW.key AND resolved_at IS NULL;
  END IF;
  RETURN NULL;
END $$
"""

_TRIGGERS = (
    """
CREATE OR REPLACE TRIGGER note_waiting BEFORE INSERT OR UPDATE OF state, version ON ls4.source
FOR EACH ROW EXECUTE FUNCTION ls4.note_waiting()
""",
    """
CREATE OR REPLACE TRIGGER note_rejection AFTER INSERT OR UPDATE OF state, version, reason ON ls4.source
FOR EACH ROW WHEN (NEW.state IN ('rejected', 'failed', 'done', 'deleted')) EXECUTE FUNCTION ls4.note_rejection()
""",
    """
CREATE OR REPLACE TRIGGER note_removal AFTER DELETE ON ls4.source
FOR EACH ROW WHEN (OLD.state IN ('rejected', 'failed', 'settling', 'queued', 'requested')) EXECUTE FUNCTION ls4.note_rejection()
""",
)


def create_triggers(connection: Connection) -> None:
    """Make or replace them; the caller has taken the role that owns the tables."""
    for statement in (_WAITING, _REJECTION, *_TRIGGERS):
        connection.execute(text(statement))
