"""Counters of live requests, kept by statement-level triggers, and storage settings for a churning queue."""

from django.db import migrations

TRIGGERS = """
CREATE FUNCTION ledger_count_in() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO ledger_depth (pool, lane, state, n)
  SELECT pool, lane, state, count(*) FROM new_rows
  WHERE state IN ('queued', 'parked', 'running') GROUP BY 1, 2, 3;
  RETURN NULL;
END $$;

CREATE FUNCTION ledger_count_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO ledger_depth (pool, lane, state, n)
  SELECT pool, lane, state, -count(*) FROM old_rows
  WHERE state IN ('queued', 'parked', 'running') GROUP BY 1, 2, 3;
  RETURN NULL;
END $$;

CREATE FUNCTION ledger_count_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO ledger_depth (pool, lane, state, n)
  SELECT pool, lane, state, sum(n) FROM (
    SELECT pool, lane, state, 1 AS n FROM new_rows WHERE state IN ('queued', 'parked', 'running')
    UNION ALL
    SELECT pool, lane, state, -1 FROM old_rows WHERE state IN ('queued', 'parked', 'running')
  ) moves GROUP BY 1, 2, 3 HAVING sum(n) <> 0;
  RETURN NULL;
END $$;

CREATE TRIGGER ledger_request_in AFTER INSERT ON ledger_request
  REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION ledger_count_in();
CREATE TRIGGER ledger_request_out AFTER DELETE ON ledger_request
  REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION ledger_count_out();
CREATE TRIGGER ledger_request_move AFTER UPDATE ON ledger_request
  REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_count_move();
"""

UNTRIGGERS = """
DROP TRIGGER ledger_request_in ON ledger_request;
DROP TRIGGER ledger_request_out ON ledger_request;
DROP TRIGGER ledger_request_move ON ledger_request;
DROP FUNCTION ledger_count_in();
DROP FUNCTION ledger_count_out();
DROP FUNCTION ledger_count_move();
"""

# The queue's partial index collects a dead entry for each request that leaves it: vacuum early and often.
STORAGE = """
ALTER TABLE ledger_request SET (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE ledger_depth SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);
ALTER TABLE ledger_payload ALTER COLUMN body SET STORAGE EXTERNAL;
"""


class Migration(migrations.Migration):
    dependencies = [("ledger", "0001_initial")]
    operations = [
        migrations.RunSQL(TRIGGERS, UNTRIGGERS),
        migrations.RunSQL(STORAGE, migrations.RunSQL.noop),
    ]
