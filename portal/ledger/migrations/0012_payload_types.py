"""A request's body and result may be of other types than JSON, and its engine be asked at a path of its own."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ledger', '0011_usage_months'),
    ]

    operations = [
        migrations.AddField(
            model_name='payload',
            name='content_type',
            field=models.CharField(db_default='application/json', help_text='Of the body.', max_length=100),
        ),
        migrations.AddField(
            model_name='payload',
            name='engine_path',
            field=models.CharField(db_default='', help_text='Where the engine is asked; empty: where the endpoint says.', max_length=200),
        ),
        migrations.AddField(
            model_name='payload',
            name='result_type',
            field=models.CharField(db_default='application/json', help_text='Content type of the result.', max_length=100),
        ),
    ]
