"""What has to listen from the start on."""

from __future__ import annotations

from django.apps import AppConfig


class Accounts(AppConfig):
    name = "portal.accounts"

    def ready(self) -> None:
        from portal.accounts import sessions  # noqa: F401  every log-in begins a session's age
