"""Totals by month, which say who is among the first without adding up every day; and found by name."""

from django.db import migrations, models

EARLIER = """
INSERT INTO ledger_usagetotal (step, kind, name, at, requests, failed, prompt_tokens, completion_tokens, gpu_s)
SELECT 'month', kind, name, date_trunc('month', at, 'UTC'), sum(requests), sum(failed), sum(prompt_tokens),
  sum(completion_tokens), sum(gpu_s)
FROM ledger_usagetotal WHERE step = 'day' GROUP BY 2, 3, 4;
"""


class Migration(migrations.Migration):

    dependencies = [("ledger", "0010_answered_later")]

    operations = [
        migrations.AlterField(
            model_name="usagetotal",
            name="step",
            field=models.CharField(
                choices=[("hour", "hour"), ("day", "day"), ("month", "month")], max_length=5
            ),
        ),
        migrations.RemoveConstraint(model_name="usagetotal", name="usage_total_once"),
        migrations.AddConstraint(
            model_name="usagetotal",
            constraint=models.UniqueConstraint(fields=("kind", "step", "name", "at"), name="usage_total_once"),
        ),
        migrations.AddIndex(
            model_name="usagetotal",
            index=models.Index(fields=["kind", "step", "at"], name="usage_total_by_time"),
        ),
        migrations.RunSQL(EARLIER, migrations.RunSQL.noop),
    ]
