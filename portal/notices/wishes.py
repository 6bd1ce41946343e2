"""A wish to be told when a model is ready → its row, for the page and the API alike."""

from __future__ import annotations

from portal.accounts.models import User
from portal.config import config
from portal.notices.models import Kind, OptOut, Webhook, Wish

NO_WAY = "You cannot be notified yet: set up mail or a webhook on the page Notices."


def wish(user: User, model: str) -> bool:
    """Store the wish, and return whether there is a way to tell this person. Asked twice, it is told once."""
    Wish.objects.get_or_create(user=user, model=model)
    if Webhook.objects.filter(user=user).exists():
        return True
    silent = OptOut.objects.filter(user=user, kind=Kind.MODEL_READY).exists()
    return bool(config().mail.host and user.email and not silent)
