"""The triggers on `source`, which maintain `source.pending_since` and the table `rejection`.

Scans, workers, crash recovery, `ls4 retry` and adoption all write `source.state`. Triggers run in each writer's own transaction,
so no state change is missing from the history.
"""

from sqlalchemy import Connection, text

_PENDING = """
CREATE OR REPLACE FUNCTION ls4.set_pending_since() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.state NOT IN ('settling', 'queued', 'requested') THEN
    NEW.pending_since := NULL;
  ELSIF TG_OP = 'INSERT' OR OLD.pending_since IS NULL OR NEW.version <> OLD.version THEN
    NEW.pending_since := now();
  END IF;
  RETURN NEW;
END $$
"""

# A source that is queued again stays rejected until it is done: a retry does not resolve anything yet.
_REJECTION = """
CREATE OR REPLACE FUNCTION ls4.record_rejection() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    UPDATE ls4.rejection SET resolved_at = now() WHERE key = OLD.key AND resolved_at IS NULL;
  ELSIF NEW.state IN ('rejected', 'failed') THEN
    INSERT INTO ls4.rejection AS existing (key, kind, scope, reason, version, first_seen, last_seen)
    VALUES (NEW.key, NEW.state, coalesce(NEW.collection, regexp_replace(NEW.key, '(/georef)?/[^/]+$', '')),
            coalesce(NEW.reason, ''), NEW.version, now(), now())
    ON CONFLICT (key) WHERE resolved_at IS NULL DO UPDATE
    SET kind = excluded.kind, scope = excluded.scope, reason = excluded.reason, version = excluded.version,
        last_seen = excluded.last_seen, occurrences = existing.occurrences + 1;
  ELSE
    UPDATE ls4.rejection SET resolved_at = now(), resolved_by = CASE WHEN NEW.state = 'done' THEN NEW.version END
     WHERE key = NEW.key AND resolved_at IS NULL;
  END IF;
  RETURN NULL;
END $$
"""

_TRIGGERS = (
    """
CREATE OR REPLACE TRIGGER set_pending_since BEFORE INSERT OR UPDATE OF state, version ON ls4.source
FOR EACH ROW EXECUTE FUNCTION ls4.set_pending_since()
""",
    """
CREATE OR REPLACE TRIGGER record_rejection AFTER INSERT OR UPDATE OF state, version, reason ON ls4.source
FOR EACH ROW WHEN (NEW.state IN ('rejected', 'failed', 'done', 'deleted')) EXECUTE FUNCTION ls4.record_rejection()
""",
    """
CREATE OR REPLACE TRIGGER record_removal AFTER DELETE ON ls4.source
FOR EACH ROW WHEN (OLD.state IN ('rejected', 'failed', 'settling', 'queued', 'requested'))
EXECUTE FUNCTION ls4.record_rejection()
""",
)


def create_triggers(connection: Connection) -> None:
    """Create or replace the triggers. The caller has set the role that owns the tables."""
    for statement in (_PENDING, _REJECTION, *_TRIGGERS):
        connection.execute(text(statement))
