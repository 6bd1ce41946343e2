"""The configured identity providers → the redirect addresses to register with them."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand
from django.urls import reverse

from portal.config import config


class Command(BaseCommand):
    help = "Print each configured identity provider and the redirect address to register there."

    def handle(self, *args: Any, **options: Any) -> None:
        if not config().oidc:
            self.stdout.write("No identity provider is configured: see docs/accounts.md.")
        origins = config().trusted_origins or (config().portal_url,)
        for provider in config().oidc:
            self.stdout.write(f"{provider.name}: {provider.issuer}")
            for origin in origins:
                path = reverse("openid_connect_callback", args=[provider.id])
                self.stdout.write(f"  redirect address: {origin.rstrip('/')}{path}")
