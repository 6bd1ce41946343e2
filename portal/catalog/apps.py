"""The catalog as a Django app, with what `manage.py check` says of the settings that its jobs are told."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Warning, register


class CatalogConfig(AppConfig):
    name = "portal.catalog"

    def ready(self) -> None:
        register(reached_by_nodes)


def reached_by_nodes(**_: Any) -> list[CheckMessage]:
    """Return a warning where jobs on other machines would look for the portal on themselves."""
    from portal.catalog import doubts  # tables: not before every app is there
    from portal.config import config

    said = doubts.loopback(config().portal_url, "BERTH_PORTAL_URL is")
    return [Warning(said, id="berth.W001")] if said else []
