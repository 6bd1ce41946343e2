from django.db import migrations, models


class Migration(migrations.Migration):
    """A pool's base is a model of that pool, a language model, and the only one of these that is enabled."""

    dependencies = [
        ('catalog', '0015_pool_base_is_chosen'),
    ]

    operations = [
        migrations.AddConstraint(
            model_name='model',
            constraint=models.UniqueConstraint(fields=('id', 'pool'), name='model_belongs_to_pool'),
        ),
        migrations.AddConstraint(
            model_name='model',
            constraint=models.UniqueConstraint(condition=models.Q(('enabled', True), ('kind', 'llm')), fields=('pool',), name='pool_serves_one_language_model', violation_error_message='A pool serves one language model.'),
        ),
        migrations.RunSQL(
            """ALTER TABLE catalog_pool ADD CONSTRAINT pool_base_belongs_to_it
                 FOREIGN KEY (base_id, name) REFERENCES catalog_model (id, pool_id)
                 DEFERRABLE INITIALLY DEFERRED""",
            "ALTER TABLE catalog_pool DROP CONSTRAINT pool_base_belongs_to_it",
        ),
        # At the end of the transaction: a model and its pool refer to each other, and are written one after the other.
        migrations.RunSQL(
            """CREATE FUNCTION catalog_pool_base() RETURNS trigger LANGUAGE plpgsql AS $$
               DECLARE
                 wrong record;
               BEGIN
                 SELECT m.name AS model, p.name AS pool INTO wrong
                 FROM catalog_model m JOIN catalog_pool p ON p.name = m.pool_id
                 WHERE p.name = to_jsonb(NEW) ->> TG_ARGV[0]
                   AND CASE WHEN m.kind = 'llm' THEN m.enabled AND p.base_id IS DISTINCT FROM m.id
                            ELSE p.base_id = m.id END
                 LIMIT 1;
                 IF FOUND THEN
                   RAISE EXCEPTION 'the base of pool % and its model % do not agree', wrong.pool, wrong.model
                     USING ERRCODE = 'check_violation', CONSTRAINT = 'pool_base_is_its_language_model',
                       HINT = 'The base of a pool is the language model of it that is enabled.';
                 END IF;
                 RETURN NULL;
               END $$;
               CREATE CONSTRAINT TRIGGER pool_base_is_its_language_model AFTER INSERT OR UPDATE ON catalog_model
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catalog_pool_base('pool_id');
               CREATE CONSTRAINT TRIGGER pool_base_is_its_language_model AFTER INSERT OR UPDATE ON catalog_pool
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION catalog_pool_base('name')""",
            """DROP TRIGGER pool_base_is_its_language_model ON catalog_pool;
               DROP TRIGGER pool_base_is_its_language_model ON catalog_model;
               DROP FUNCTION catalog_pool_base()""",
        ),
    ]
