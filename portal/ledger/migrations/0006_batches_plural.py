"""More than one batch is batches."""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("ledger", "0005_parked")]

    operations = [migrations.AlterModelOptions(name="batch", options={"verbose_name_plural": "batches"})]
