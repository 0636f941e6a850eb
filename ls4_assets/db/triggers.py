"""The triggers on `source`: since when a version waits, and the history of refusals.

Many write a source's state: the look, workers, the release of dead batches, an operator's retry, adoption. A trigger sees all of
them, in their own transaction, so that the history lacks nothing that ever stood in the table.
"""

from sqlalchemy import Connection, text

_WAITING = """
CREATE OR REPLACE FUNCTION ls4.note_waiting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.state NOT IN ('settling', 'queued', 'requested') THEN
    NEW.waiting_since := NULL;
  ELSIF TG_OP = 'INSERT' OR OLD.waiting_since IS NULL OR NEW.version <> OLD.version THEN
    NEW.waiting_since := now();
  END IF;
  RETURN NEW;
END $$
"""

# A source that is tried again stays refused until it is taken: "it waits" is no good news yet.
_REFUSAL = """
CREATE OR REPLACE FUNCTION ls4.note_refusal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    UPDATE ls4.refusal SET resolved_at = now() WHERE key = OLD.key AND resolved_at IS NULL;
  ELSIF NEW.state IN ('refused', 'failed') THEN
    INSERT INTO ls4.refusal AS known (key, kind, place, reason, version, first_seen, last_seen)
    VALUES (NEW.key, NEW.state, coalesce(NEW.collection, regexp_replace(NEW.key, '(/georef)?/[^/]+$', '')),
            coalesce(NEW.reason, ''), NEW.version, now(), now())
    ON CONFLICT (key) WHERE resolved_at IS NULL DO UPDATE
    SET kind = excluded.kind, place = excluded.place, reason = excluded.reason, version = excluded.version,
        last_seen = excluded.last_seen, times = known.times + 1;
  ELSE
    UPDATE ls4.refusal SET resolved_at = now(), resolved_by = CASE WHEN NEW.state = 'done' THEN NEW.version END
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
CREATE OR REPLACE TRIGGER note_refusal AFTER INSERT OR UPDATE OF state, version, reason ON ls4.source
FOR EACH ROW WHEN (NEW.state IN ('refused', 'failed', 'done', 'deleted')) EXECUTE FUNCTION ls4.note_refusal()
""",
    """
CREATE OR REPLACE TRIGGER note_removal AFTER DELETE ON ls4.source
FOR EACH ROW WHEN (OLD.state IN ('refused', 'failed', 'settling', 'queued', 'requested')) EXECUTE FUNCTION ls4.note_refusal()
""",
)


def create_triggers(connection: Connection) -> None:
    """Make or replace them; the caller has taken the role that owns the tables."""
    for statement in (_WAITING, _REFUSAL, *_TRIGGERS):
        connection.execute(text(statement))
