from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0010_profile_cluster_is_its_access")]

    operations = [
        migrations.AddField(
            model_name="profile",
            name="nodes",
            field=models.PositiveSmallIntegerField(
                default=1,
                help_text="Nodes that one job may have, at most: for models over several nodes, which take them whole.",
            ),
        ),
        migrations.AddField(
            model_name="pool",
            name="nodes",
            field=models.PositiveSmallIntegerField(
                default=1,
                help_text="Nodes of one replica. Over several it takes whole jobs of so many, with exactly its GPUs on "
                "each.",
            ),
        ),
        migrations.AlterField(
            model_name="profile",
            name="gpus",
            field=models.PositiveSmallIntegerField(
                default=1, help_text="GPUs of one pilot, on each of its nodes; 0: its jobs run on CPUs only."
            ),
        ),
        migrations.AlterField(
            model_name="profile",
            name="mem_mb",
            field=models.PositiveIntegerField(
                default=16000, help_text="Host memory of one pilot, on each of its nodes, MiB."
            ),
        ),
        migrations.AlterField(
            model_name="pool",
            name="gpus",
            field=models.PositiveSmallIntegerField(
                default=1, help_text="GPUs of one replica, on each of its nodes; 0: it runs on CPUs only."
            ),
        ),
        migrations.AlterField(
            model_name="pool",
            name="mem_mb",
            field=models.PositiveIntegerField(
                default=8000, help_text="Host memory of one replica, on each node, MiB."
            ),
        ),
        migrations.AddConstraint(
            model_name="profile",
            constraint=models.CheckConstraint(
                condition=models.Q(nodes__gt=0),
                name="profile_has_nodes",
                violation_error_message="A job has at least one node.",
            ),
        ),
        migrations.AddConstraint(
            model_name="pool",
            constraint=models.CheckConstraint(
                condition=models.Q(nodes=1)
                | (models.Q(nodes__gt=1) & models.Q(gpus__gt=0) & models.Q(sleep_level=0)),
                name="pool_over_nodes_has_gpus_and_does_not_sleep",
                violation_error_message="A model over several nodes has GPUs on each, and does not sleep.",
            ),
        ),
    ]
