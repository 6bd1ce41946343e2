"""Tickets, which keep a place in line while the client is away, and Idempotency-Keys."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("ledger", "0003_batches")]
    operations = [
        migrations.CreateModel(
            name="IdempotencyKey",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("token_id", models.BigIntegerField()),
                ("key", models.CharField(max_length=255)),
                ("digest", models.CharField(help_text="Of API and body, SHA-256 in hex.", max_length=64)),
                ("request", models.UUIDField(help_text="The request that answers for this key.")),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "indexes": [models.Index(fields=["expires_at"], name="idempotencykey_by_expiry")],
                "constraints": [
                    models.UniqueConstraint(fields=("token_id", "key"), name="idempotencykey_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="Ticket",
            fields=[
                (
                    "request",
                    models.OneToOneField(
                        db_column="request",
                        on_delete=models.deletion.CASCADE,
                        primary_key=True,
                        related_name="ticket",
                        serialize=False,
                        to="ledger.request",
                    ),
                ),
                ("token_id", models.BigIntegerField()),
                ("digest", models.CharField(help_text="Of API and body, SHA-256 in hex.", max_length=64)),
                (
                    "claimed_by",
                    models.UUIDField(help_text="The retry that took it; null = away.", null=True, unique=True),
                ),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("claimed_by__isnull", True)),
                        fields=["token_id", "digest"],
                        name="ticket_away",
                    ),
                    models.Index(fields=["expires_at"], name="ticket_by_expiry"),
                ],
            },
        ),
    ]
