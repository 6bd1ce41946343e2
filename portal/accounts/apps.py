"""What has to listen from the start on."""

from __future__ import annotations

from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "portal.accounts"

    def ready(self) -> None:
        # Whoever leaves a project loses its tokens; every log-in begins a session's age.
        from portal.accounts import members, sessions  # noqa: F401
