"""Everybody's usage: sums of all together, and of each model, project and person; begun with what was folded so far."""

from django.db import migrations, models

# Deltas that are not folded yet get into these sums when they are.
EARLIER = """
INSERT INTO ledger_usagetotal (step, kind, name, at, requests, failed, prompt_tokens, completion_tokens, gpu_s)
SELECT step, kind, name, at, sum(requests), sum(failed), sum(prompt_tokens), sum(completion_tokens), sum(gpu_s)
FROM ledger_usage, LATERAL (VALUES
  ('all', ''), ('model', model), ('project', project_id::text), ('user', user_id::text)) kinds (kind, name)
GROUP BY 1, 2, 3, 4;
"""


class Migration(migrations.Migration):

    dependencies = [("ledger", "0008_usage")]

    operations = [
        migrations.CreateModel(
            name="UsageTotal",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("at", models.DateTimeField(help_text="Its beginning, UTC.")),
                ("requests", models.BigIntegerField(help_text="However they ended.")),
                ("failed", models.BigIntegerField(help_text="Of them: failed or expired.")),
                ("prompt_tokens", models.BigIntegerField()),
                ("completion_tokens", models.BigIntegerField()),
                (
                    "gpu_s",
                    models.FloatField(help_text="Engine time × the GPUs of the engine, each request for itself."),
                ),
                ("step", models.CharField(choices=[("hour", "hour"), ("day", "day")], max_length=4)),
                (
                    "kind",
                    models.CharField(
                        choices=[("all", "all"), ("model", "model"), ("project", "project"), ("user", "user")],
                        max_length=7,
                    ),
                ),
                (
                    "name",
                    models.CharField(
                        blank=True, help_text="The model's; of projects and users the id.", max_length=128
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("kind", "step", "at", "name"), name="usage_total_once")
                ],
            },
        ),
        migrations.RunSQL(EARLIER, migrations.RunSQL.noop),
    ]
