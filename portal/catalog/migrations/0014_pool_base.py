import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0013_access_names_its_own_cluster_and_paths'),
    ]

    operations = [
        migrations.AddField(
            model_name='pool',
            name='base',
            field=models.ForeignKey(editable=False, help_text='The language model that its replicas load: the one of its models that is enabled.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='catalog.model'),
        ),
    ]
