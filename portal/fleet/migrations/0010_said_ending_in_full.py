from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0009_candidates")]

    operations = [
        migrations.AlterField(
            model_name="pilot",
            name="said_ending",
            field=models.TextField(blank=True),
        ),
    ]
