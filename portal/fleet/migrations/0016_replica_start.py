from django.db import migrations, models


class Migration(migrations.Migration):
    """Whether a replica loads or is woken was a word among those that its engine says."""

    dependencies = [
        ('fleet', '0015_decision_kinds'),
    ]

    operations = [
        migrations.AddField(
            model_name='replica',
            name='start',
            field=models.CharField(choices=[('load', 'Load'), ('wake', 'Wake')], db_default='load', default='load', help_text='Why its engine starts: its weights are loaded, or it is woken.', max_length=5),
        ),
        migrations.AddConstraint(
            model_name='replica',
            constraint=models.CheckConstraint(condition=models.Q(('start__in', ['load', 'wake'])), name='replica_start_known'),
        ),
        migrations.RunSQL(
            "UPDATE fleet_replica SET start = 'wake' WHERE state = 'starting' AND phase = 'waking'",
            migrations.RunSQL.noop,
        ),
    ]
