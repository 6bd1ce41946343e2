import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0004_door_words'),
    ]

    operations = [
        migrations.AddField(
            model_name='profile',
            name='constraint',
            field=models.CharField(blank=True, help_text='Features that its nodes must have, e.g. a100&nvlink.', max_length=256),
        ),
        migrations.AddField(
            model_name='profile',
            name='exclusive',
            field=models.CharField(blank=True, choices=[('node', 'no other job on its nodes (--exclusive)'), ('user', 'only jobs of the same account (--exclusive=user)'), ('mcs', 'only jobs of the same MCS label (--exclusive=mcs)')], help_text='Who else may use its nodes; empty: anybody.', max_length=10),
        ),
        migrations.AddField(
            model_name='profile',
            name='extra',
            field=models.JSONField(blank=True, default=dict, help_text='Further directives by sbatch\'s names, e.g. {"switches": "1@60", "contiguous": true}; of those that Berth allows.'),
        ),
        migrations.AddField(
            model_name='profile',
            name='gpu_request',
            field=models.CharField(choices=[('gres', '--gres=gpu:TYPE:N'), ('gpus-per-node', '--gpus-per-node=TYPE:N')], default='gres', help_text='How Slurm is asked for GPUs.', max_length=20),
        ),
        migrations.AddField(
            model_name='profile',
            name='gpu_type_asked',
            field=models.BooleanField(default=True, help_text="Name the type to Slurm. Without: it is only what Berth's measurements are kept under, and a partition or constraint chooses the nodes."),
        ),
        migrations.AddField(
            model_name='profile',
            name='licenses',
            field=models.CharField(blank=True, help_text='Licences that each job takes, e.g. ansys:2,matlab@flex.', max_length=200),
        ),
        migrations.AddField(
            model_name='profile',
            name='mem_request',
            field=models.CharField(choices=[('mem', '--mem, for the whole job'), ('mem-per-gpu', '--mem-per-gpu, the same divided by its GPUs'), ('none', 'not at all: the site gives memory with GPUs or CPUs')], default='mem', help_text='How Slurm is asked for memory.', max_length=20),
        ),
        migrations.AddField(
            model_name='profile',
            name='nice',
            field=models.PositiveIntegerField(default=0, help_text="How much its jobs stand back behind others, Slurm's nice.", validators=[django.core.validators.MaxValueValidator(2000000000)]),
        ),
        migrations.AddField(
            model_name='profile',
            name='reservation',
            field=models.CharField(blank=True, help_text='Of Slurm, in which its jobs run.', max_length=200),
        ),
        migrations.AddField(
            model_name='profile',
            name='wckey',
            field=models.CharField(blank=True, help_text='Key under which the site books its jobs.', max_length=64),
        ),
        migrations.AddConstraint(
            model_name='profile',
            constraint=models.CheckConstraint(condition=models.Q(('gpus__gt', 0), models.Q(('mem_request', 'mem-per-gpu'), _negated=True), _connector='OR'), name='profile_mem_per_gpu_has_gpus', violation_error_message='Memory per GPU needs GPUs: ask for it with --mem.'),
        ),
    ]
