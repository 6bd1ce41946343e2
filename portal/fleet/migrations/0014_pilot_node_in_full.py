from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0013_way_busy_until")]

    operations = [
        migrations.AlterField(
            model_name="pilot",
            name="node",
            field=models.TextField(blank=True, help_text="Slurm's list of its nodes, whole."),
        ),
    ]
