from django.db import migrations


class Migration(migrations.Migration):
    """Write down what was the base until now: the first language model by id, of the enabled ones where there are any.
    Another one that is enabled in the same pool was never loaded, and is disabled."""

    dependencies = [
        ('catalog', '0014_pool_base'),
    ]

    operations = [
        migrations.RunSQL(
            """UPDATE catalog_pool p SET base_id = (
                 SELECT m.id FROM catalog_model m WHERE m.pool_id = p.name AND m.kind = 'llm'
                 ORDER BY m.enabled DESC, m.id LIMIT 1)""",
            migrations.RunSQL.noop,
        ),
        migrations.RunSQL(
            """UPDATE catalog_model m SET enabled = false FROM catalog_pool p
               WHERE p.name = m.pool_id AND m.kind = 'llm' AND m.enabled AND m.id <> p.base_id""",
            migrations.RunSQL.noop,
        ),
    ]
