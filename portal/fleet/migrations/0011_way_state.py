import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """Listing and silence belong to a way, not to a cluster. What the last listing said is asked again at once."""

    dependencies = [
        ('fleet', '0010_said_ending_in_full'),
    ]

    operations = [
        migrations.RemoveField(model_name='cluster', name='answered_at'),
        migrations.RemoveField(model_name='cluster', name='error'),
        migrations.RemoveField(model_name='cluster', name='jobs'),
        migrations.RemoveField(model_name='cluster', name='tried_at'),
        migrations.AlterField(
            model_name='cluster',
            name='paused',
            field=models.BooleanField(default=False, help_text='Nothing is launched in this cluster.'),
        ),
        migrations.CreateModel(
            name='WayState',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(blank=True, help_text="Of the access; empty: Slurm's commands on the portal's host.", max_length=50)),
                ('said', models.CharField(blank=True, help_text='The way in words.', max_length=300)),
                ('tried_at', models.DateTimeField(help_text='Last time Slurm was asked.', null=True)),
                ('answered_at', models.DateTimeField(help_text='Last time it answered.', null=True)),
                ('error', models.TextField(blank=True, help_text='Why the last question had no answer; empty when it had one.')),
                ('jobs', models.JSONField(default=dict, help_text='The last good listing, by pilot.')),
                ('cluster', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='ways', to='fleet.cluster')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('cluster', 'name'), name='waystate_once')],
            },
        ),
    ]
