"""Usage by hour: the sums, the deltas that a trigger writes when requests end, and what has ended before."""

from django.db import migrations, models

# What ended rows `r` used, with `sign` before each number.
_SPENT = """
  SELECT date_trunc('hour', r.ended_at, 'UTC') AS at, r.user_id, r.project_id, r.model, {sign}1 AS requests,
    {sign}(r.state IN ('failed', 'expired'))::int AS failed, {sign}coalesce(r.prompt_tokens, 0) AS prompt_tokens,
    {sign}coalesce(r.completion_tokens, 0) AS completion_tokens,
    {sign}coalesce(greatest(0, extract(epoch FROM r.ended_at - r.granted_at))::float8
      * jsonb_array_length(e.gpu_indices), 0) AS gpu_s
  FROM {rows} r LEFT JOIN fleet_replica e ON e.id = r.replica
  WHERE r.ended_at IS NOT NULL"""
_COLUMNS = "at, user_id, project_id, model, requests, failed, prompt_tokens, completion_tokens, gpu_s"
_SUMS = """user_id, project_id, model, sum(requests), sum(failed), sum(prompt_tokens), sum(completion_tokens),
    sum(gpu_s)"""

# Most statements end nothing: they look once and go.
TRIGGERS = f"""
CREATE FUNCTION ledger_usage_in() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM new_rows WHERE ended_at IS NOT NULL) THEN
    INSERT INTO ledger_usagedelta ({_COLUMNS})
    SELECT at, {_SUMS} FROM ({_SPENT.format(sign="", rows="new_rows")}) spent GROUP BY 1, 2, 3, 4;
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION ledger_usage_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM new_rows WHERE ended_at IS NOT NULL) THEN
    INSERT INTO ledger_usagedelta ({_COLUMNS})
    SELECT at, {_SUMS} FROM ({_SPENT.format(sign="", rows="new_rows")}
      UNION ALL {_SPENT.format(sign="-", rows="old_rows")}) spent
    GROUP BY 1, 2, 3, 4
    HAVING sum(requests) <> 0 OR sum(failed) <> 0 OR sum(prompt_tokens) <> 0 OR sum(completion_tokens) <> 0;
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER ledger_request_used_in AFTER INSERT ON ledger_request
  REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION ledger_usage_in();
CREATE TRIGGER ledger_request_used_move AFTER UPDATE ON ledger_request
  REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION ledger_usage_move();
"""

UNTRIGGERS = """
DROP TRIGGER ledger_request_used_in ON ledger_request;
DROP TRIGGER ledger_request_used_move ON ledger_request;
DROP FUNCTION ledger_usage_in();
DROP FUNCTION ledger_usage_move();
"""

EARLIER = f"""
INSERT INTO ledger_usage (step, {_COLUMNS})
SELECT step, date_trunc(step, at, 'UTC'), {_SUMS} FROM ({_SPENT.format(sign="", rows="ledger_request")}) spent,
  (VALUES ('hour'), ('day')) steps (step) GROUP BY 1, 2, 3, 4, 5;
"""

STORAGE = """
ALTER TABLE ledger_usagedelta SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000);
"""

_ID = models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")
_FIELDS = [
    ("id", _ID),
    ("at", models.DateTimeField(help_text="Its beginning, UTC.")),
    ("user_id", models.BigIntegerField()),
    ("project_id", models.BigIntegerField()),
    ("model", models.CharField(max_length=128)),
    ("requests", models.BigIntegerField(help_text="However they ended.")),
    ("failed", models.BigIntegerField(help_text="Of them: failed or expired.")),
    ("prompt_tokens", models.BigIntegerField()),
    ("completion_tokens", models.BigIntegerField()),
    ("gpu_s", models.FloatField(help_text="Engine time × the GPUs of the engine, each request for itself.")),
]


class Migration(migrations.Migration):

    dependencies = [("ledger", "0007_request_served"), ("fleet", "0006_stage_wish")]

    operations = [
        migrations.CreateModel(
            name="UsageDelta",
            fields=_FIELDS,
            options={"abstract": False},
        ),
        migrations.CreateModel(
            name="Usage",
            fields=[
                *_FIELDS,
                ("step", models.CharField(choices=[("hour", "hour"), ("day", "day")], max_length=4)),
            ],
            options={
                "verbose_name_plural": "usage",
                "indexes": [models.Index(fields=["project_id", "step", "at"], name="usage_by_project")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("user_id", "step", "at", "project_id", "model"), name="usage_once"
                    )
                ],
            },
        ),
        migrations.RunSQL(TRIGGERS, UNTRIGGERS),
        migrations.RunSQL(EARLIER, migrations.RunSQL.noop),
        migrations.RunSQL(STORAGE, migrations.RunSQL.noop),
    ]
