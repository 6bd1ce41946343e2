from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0011_way_state")]

    operations = [
        migrations.AddField(
            model_name="pilot",
            name="nodes",
            field=models.PositiveSmallIntegerField(db_default=1, default=1),
        ),
        migrations.AlterField(
            model_name="pilot",
            name="gpus",
            field=models.PositiveSmallIntegerField(help_text="Of all its nodes."),
        ),
        migrations.AlterField(
            model_name="pilot",
            name="mem_mb",
            field=models.PositiveIntegerField(help_text="Of each of its nodes."),
        ),
    ]
