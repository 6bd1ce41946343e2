from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0005_profile_directives'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='pool',
            name='pool_has_gpus_and_cap',
        ),
        migrations.RemoveConstraint(
            model_name='profile',
            name='profile_has_gpus',
        ),
        migrations.AlterField(
            model_name='pool',
            name='gpus',
            field=models.PositiveSmallIntegerField(default=1, help_text='GPUs of one replica; 0: it runs on CPUs only.'),
        ),
        migrations.AlterField(
            model_name='profile',
            name='gpus',
            field=models.PositiveSmallIntegerField(default=1, help_text='GPUs of one pilot; 0: its jobs run on CPUs only.'),
        ),
        migrations.AddConstraint(
            model_name='pool',
            constraint=models.CheckConstraint(condition=models.Q(('cap__gt', 0)), name='pool_has_cap', violation_error_message='cap is at least 1.'),
        ),
    ]
