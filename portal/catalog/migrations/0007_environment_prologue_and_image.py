from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0006_cpu_only'),
    ]

    operations = [
        migrations.AddField(
            model_name='environment',
            name='image',
            field=models.CharField(blank=True, help_text='Apptainer image, as seen on compute nodes, in which its engines run; the interpreter is inside.', max_length=500),
        ),
        migrations.AddField(
            model_name='environment',
            name='image_binds',
            field=models.JSONField(blank=True, default=list, help_text='Further folders to be seen inside the image, e.g. ["/apps", "/data/models:/models:ro"]; Berth binds what it needs itself.'),
        ),
        migrations.AddField(
            model_name='environment',
            name='image_gpu',
            field=models.CharField(blank=True, choices=[('nv', 'NVIDIA (--nv)'), ('rocm', 'AMD (--rocm)')], help_text='What Apptainer takes into the image for GPUs.', max_length=10),
        ),
        migrations.AddField(
            model_name='environment',
            name='prologue',
            field=models.TextField(blank=True, help_text='Shell lines (bash) run before its engines start, e.g. module load cuda/12.'),
        ),
    ]
