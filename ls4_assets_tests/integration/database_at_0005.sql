-- A database of revision 0005, without its tables and views: the functions and triggers of that version, and rows.

CREATE FUNCTION ls4.note_waiting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.state NOT IN ('settling', 'queued', 'requested') THEN
    NEW.waiting_since := NULL;
  ELSIF TG_OP = 'INSERT' OR OLD.waiting_since IS NULL OR NEW.version <> OLD.version THEN
    NEW.waiting_since := now();
  END IF;
  RETURN NEW;
END $$;

CREATE FUNCTION ls4.note_refusal() RETURNS trigger LANGUAGE plpgsql AS $$
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
END $$;

CREATE TRIGGER note_waiting BEFORE INSERT OR UPDATE OF state, version ON ls4.source
FOR EACH ROW EXECUTE FUNCTION ls4.note_waiting();

CREATE TRIGGER note_refusal AFTER INSERT OR UPDATE OF state, version, reason ON ls4.source
FOR EACH ROW WHEN (NEW.state IN ('refused', 'failed', 'done', 'deleted')) EXECUTE FUNCTION ls4.note_refusal();

CREATE TRIGGER note_removal AFTER DELETE ON ls4.source
FOR EACH ROW WHEN (OLD.state IN ('refused', 'failed', 'settling', 'queued', 'requested')) EXECUTE FUNCTION ls4.note_refusal();

INSERT INTO ls4.collection (name, shard, partition, table_name, frames, bands, index_revision, published_at, outline, scans_looked_at)
VALUES ('Travis_USDA_1958_frames', 'Travis', 'Travis_USDA_1958_frames', 'travis_usda_1958_frames', 1, '{bw,nc}', 7,
        '2026-01-01 00:00Z', ST_MakeEnvelope(0, 0, 1, 1, 3857), '2026-01-02 00:00Z');

INSERT INTO ls4.source (key, state, reason, version, size, collection, generation, not_before) VALUES
       ('bw/Travis/USDA_1958/frames/georef/1.tif', 'queued', NULL, 'v', 1, 'Travis_USDA_1958_frames', 3, '2026-01-03 00:00Z'),
       ('bw/Travis/USDA_1958/frames/georef/2.tif', 'failed', 'It is black.', 'v', 1, 'Travis_USDA_1958_frames', 1, NULL),
       ('bw/Travis/odd/georef/x.tif', 'refused', 'Its name is wrong.', 'v', 1, NULL, 1, NULL),
       ('bw/Travis/odd/georef/y.tif', 'refused', 'Its name is wrong.', 'v', 1, NULL, 1, NULL);
-- x.tif is refused a second time, y.tif is removed.
UPDATE ls4.source SET state = 'refused', version = 'w' WHERE key ~ '/x.tif$';
DELETE FROM ls4.source WHERE key ~ '/y.tif$';
UPDATE ls4.source SET gone_at = '2026-01-04 00:00Z', held_at = '2026-01-05 00:00Z' WHERE key ~ '/2.tif$';

INSERT INTO ls4.overview_mosaic (collection, form, zoom) VALUES ('Travis_USDA_1958_frames', '1-1', 12);
INSERT INTO ls4.failed_run (kind, place, run, reason, failed_at) VALUES ('run', 'Bastrop', 'r1', 'no disk', '2026-01-06 00:00Z');
INSERT INTO ls4.notice (kind, place, files, latest, told_at) VALUES
       ('refused', 'bw/Travis/odd', 2, '2026-01-07 00:00Z', '2026-01-08 00:00Z'),
       ('held', 'Travis_USDA_1958_frames', 1, '2026-01-07 00:00Z', '2026-01-08 00:00Z');
INSERT INTO ls4.catalogue (collection, revision, frames, form) VALUES ('Travis_USDA_1958_frames', 6, 1, '3');
INSERT INTO ls4.compilation (name, shows, seconds, begun_at, compiled_at)
VALUES ('compiled_historical_indexes', 'd1', 2.5, '2026-01-09 00:00Z', '2026-01-10 00:00Z');
INSERT INTO ls4.inbox (key, not_before) VALUES ('bw/Travis/USDA_1958/frames/georef/3.tif', '2026-01-11 00:00Z');
