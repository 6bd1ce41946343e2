from django.db import migrations, models

# Every kind that a release has written. A table of an installation holds no other, so that nothing has to be mapped.
KINDS = [
    'launch', 'place', 'wake_replica', 'drain_replica', 'stage', 'drain_pilot', 'cancel', 'hold', 'hold_profile',
    'cancel_unknown', 'cancel_refused', 'exclude_node', 'readmit_node', 'resubmit', 'ended', 'silent', 'heard_again',
    'slurm_silent', 'slurm_answers', 'adopt', 'pause', 'reject', 'pin', 'unpin', 'wake', 'resume', 'relaunch',
    'test_launch',
]


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0014_pilot_node_in_full'),
    ]

    operations = [
        migrations.AddConstraint(
            model_name='decision',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', KINDS)), name='decision_kind_known'),
        ),
        migrations.AddField(
            model_name='waystate',
            name='silence_noted',
            field=models.BooleanField(db_default=False, default=False, help_text='A decision row tells of the silence that `error` is about.'),
        ),
        migrations.RunSQL(
            "UPDATE fleet_waystate SET silence_noted = true WHERE error <> ''", reverse_sql=migrations.RunSQL.noop
        ),
    ]
