from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('fleet', '0012_pilot_nodes'),
    ]

    operations = [
        migrations.AddField(
            model_name='waystate',
            name='busy_until',
            field=models.DateTimeField(help_text='A submission that nobody waited for may be under way until then: nothing is asked.', null=True),
        ),
    ]
