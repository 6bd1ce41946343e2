from django.db import migrations


class Migration(migrations.Migration):
    """A profile keeps its cluster's name, because most questions ask for it; the database keeps it true."""

    dependencies = [
        ('catalog', '0009_submit_prefix_becomes_access'),
    ]

    operations = [
        migrations.RemoveField(
            model_name='profile',
            name='submit_prefix',
        ),
        migrations.RunSQL(
            """ALTER TABLE catalog_profile ADD CONSTRAINT profile_cluster_is_its_access
                 FOREIGN KEY (access_id, cluster) REFERENCES catalog_access (id, cluster)
                 ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED""",
            "ALTER TABLE catalog_profile DROP CONSTRAINT profile_cluster_is_its_access",
        ),
    ]
