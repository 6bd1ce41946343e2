"""A migrated database and an empty state folder → an installation that can start. May be run again at any time."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError

from portal.config import config
from portal.fleet.models import Cluster


class Command(BaseCommand):
    help = "Create the installation's id and keys, the spool folder and the cluster's row, where missing."

    def handle(self, *args: Any, **options: Any) -> None:
        settings = config()
        state = settings.state_dir
        for name, make in (
            ("instance", lambda: settings.instance),
            ("site.key", lambda: settings.site_key),
            ("secret.key", lambda: settings.secret_key),
        ):
            known = (state / name).exists()
            make()
            self._say(f"{state / name}", known)
        # Readable by the service account only: keys sign pilots in, and the spool holds pilots' own secrets.
        state.chmod(0o700)
        known = settings.spool.is_dir()
        settings.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.spool.chmod(0o700)
        self._say(f"{settings.spool}/", known)
        try:
            _, created = Cluster.objects.get_or_create(name=settings.cluster)
        except DatabaseError as error:
            raise CommandError(
                f"the database has no table for clusters; run manage.py migrate: {error}"
            ) from None
        self._say(f"cluster {settings.cluster}", not created)

    def _say(self, what: str, known: bool) -> None:
        self.stdout.write(f"{'kept   ' if known else 'created'}  {what}")
