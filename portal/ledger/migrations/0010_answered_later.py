"""An index to the results that are kept, for the notice before they are deleted."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0009_usage_totals'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='request',
            index=models.Index(condition=models.Q(('lane', 'async'), ('state', 'done')), fields=['ended_at'], name='request_answered_later'),
        ),
    ]
