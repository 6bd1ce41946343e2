import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

DIRECTIVE = django.core.validators.RegexValidator(
    '^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\\Z', 'Letters, digits and . _ + - only.'
)


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0007_environment_prologue_and_image'),
    ]

    operations = [
        migrations.AlterField(
            model_name='profile',
            name='cluster',
            field=models.CharField(default='main', help_text='With an access: that to which it leads.', max_length=64, validators=[DIRECTIVE]),
        ),
        migrations.CreateModel(
            name='Access',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.SlugField(unique=True)),
                ('kind', models.CharField(choices=[('cli', "Slurm's commands"), ('rest', 'slurmrestd'), ('native', 'pyslurm, in a helper process')], default='cli', max_length=10)),
                ('cluster', models.CharField(default='main', help_text='What the cluster is called here. Several ways may lead to one.', max_length=64, validators=[DIRECTIVE])),
                ('submit_prefix', models.JSONField(blank=True, default=list, help_text='Put before Slurm\'s commands or the helper, e.g. ["ssh", "login01"].')),
                ('address', models.CharField(blank=True, help_text='Where slurmrestd listens, e.g. http://slurm:6820 or unix:/run/slurmrestd.', max_length=200)),
                ('conf', models.CharField(blank=True, help_text="slurm.conf for the commands or the helper; empty: SLURM_CONF, or Slurm's own.", max_length=300)),
                ('user', models.CharField(blank=True, help_text="Whose jobs these are, for slurmrestd and pyslurm; empty: the token's, or the helper's own.", max_length=64, validators=[DIRECTIVE])),
                ('token_file', models.CharField(blank=True, help_text="File on the portal's host that holds slurmrestd's token.", max_length=300)),
                ('token_command', models.JSONField(blank=True, default=list, help_text='Prints a token, e.g. ["scontrol", "token", "lifespan=3600"].')),
                ('python', models.CharField(blank=True, help_text='Interpreter that has pyslurm, for the helper process.', max_length=300)),
            ],
            options={
                'verbose_name_plural': 'accesses',
                'constraints': [models.UniqueConstraint(fields=('id', 'cluster'), name='access_leads_to_cluster')],
            },
        ),
        migrations.AddField(
            model_name='profile',
            name='access',
            field=models.ForeignKey(blank=True, help_text="How Slurm is reached; empty: by its commands on the portal's host.", null=True, on_delete=django.db.models.deletion.PROTECT, related_name='profiles', to='catalog.access'),
        ),
    ]
