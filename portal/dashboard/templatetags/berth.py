"""States and times → the words, colours and marks in which every page shows them."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import Any

from django import template
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from portal.accounts.models import User
from portal.dashboard.firstrun import hint
from portal.fleet.times import ago as ago_words
from portal.fleet.times import span as span_words

register = template.Library()

# word → (tone, mark, shown as). The mark and the word carry the meaning; colour only helps.
STATES = {
    "ready": ("good", "●", "Ready"),
    "starting": ("wait", "◐", "Starting"),
    "not_loaded": ("quiet", "○", "Not loaded"),
    "unavailable": ("bad", "✕", "Unavailable"),
    "queued": ("wait", "◌", "Queued"),
    "parked": ("quiet", "‖", "Parked"),
    "running": ("good", "▸", "Running"),
    "done": ("good", "✓", "Done"),
    "failed": ("bad", "✕", "Failed"),
    "cancelled": ("quiet", "–", "Cancelled"),
    "expired": ("bad", "⌛", "Expired"),
    "validating": ("wait", "◌", "Validating"),
    "in_progress": ("good", "▸", "In progress"),
    "finalizing": ("wait", "◑", "Finalizing"),
    "completed": ("good", "✓", "Completed"),
    "cancelling": ("wait", "◑", "Cancelling"),
    "planned": ("quiet", "○", "Planned"),
    "submitted": ("wait", "◌", "Submitted"),
    "pending": ("wait", "◌", "Pending"),
    "up": ("good", "●", "Up"),
    "draining": ("wait", "◑", "Draining"),
    "ended": ("quiet", "–", "Ended"),
    "wanted": ("wait", "◌", "Wanted"),
    "hot": ("good", "●", "Hot"),
    "asleep": ("quiet", "☾", "Asleep"),
    "stopped": ("quiet", "–", "Stopped"),
    "refused": ("bad", "✕", "Refused"),
    "live": ("good", "●", "Active"),
    "ends_soon": ("wait", "◔", "Expires soon"),
    "disabled": ("bad", "✕", "Disabled"),
    "sent": ("good", "✓", "Sent"),
    "revoked": ("quiet", "–", "Revoked"),
    "waiting": ("wait", "◌", "Waiting for a job"),
    "looked_at": ("wait", "◐", "Inspecting"),
    "proposed": ("good", "◕", "Ready to save"),
    "approval": ("wait", "◔", "Waiting for approval"),
    "saved": ("good", "✓", "In the catalog"),
}

# The last word of a number's name in the code → its unit.
UNITS = {"s": "s", "mb": "MiB", "min": "min"}


@register.simple_tag(takes_context=True)
def nav(context: dict[str, Any], name: str, text: str, *below: str) -> SafeString:
    """Return a link of the navigation. It is marked on its own page, and on those named `below` it."""
    match = getattr(context.get("request"), "resolver_match", None)
    here = match.view_name if match else ""
    current = "page" if here == name else "true" if here in below else ""
    mark = format_html(' aria-current="{}"', current) if current else ""
    return format_html('<a href="{}"{}>{}</a>', reverse(name), mark, text)


@register.inclusion_tag("dashboard/_first_run.html", takes_context=True)
def first_run(context: dict[str, Any], *, as_admin: bool = False) -> dict[str, Any]:
    """Show the next step of an installation that is not complete, on every page; `as_admin`: in the admin's looks."""
    user = getattr(context.get("request"), "user", None)
    return {"step": hint(user, timezone.now()) if isinstance(user, User) else None, "as_admin": as_admin}


@register.simple_tag
def state(word: str) -> SafeString:
    """Return a state as a chip. An unknown word is shown as it is."""
    tone, mark, text = STATES.get(word, ("quiet", "·", word))
    return format_html('<span class="chip {}"><span aria-hidden="true">{}</span> {}</span>', tone, mark, text)


@register.simple_tag(takes_context=True)
def button(
    context: dict[str, Any],
    kind: str,
    text: str,
    target: str = "",
    key: object = "",
    confirm: str = "",
    back: str = "",
    cluster: str = "",
) -> SafeString:
    """Return a form of one button that writes a command. It is no template of its own: a page of the fleet has
    hundreds."""
    which = escape(str(key))
    aim = f'<input type="hidden" name="{target}" value="{which}">' if target else ""
    if cluster:
        aim += f'<input type="hidden" name="cluster" value="{escape(cluster)}">'
    in_ = f"-{escape(cluster)}" if cluster else ""
    ask = f' data-confirm="{escape(confirm)}"' if confirm else ""
    return mark_safe(
        f'<form method="post" action="{reverse("fleet-command")}">'
        f'<input type="hidden" name="csrfmiddlewaretoken" value="{context["csrf_token"]}">'
        f'<input type="hidden" name="kind" value="{kind}">{aim}'
        f'<input type="hidden" name="next" value="{escape(back)}">'
        f'<button id="{kind}-{target or "fleet"}-{which or "all"}{in_}"{ask}>{escape(text)}</button></form>'
    )


@register.filter
def ago(then: datetime | None) -> str:
    return ago_words(then, timezone.now()) if then else "–"


@register.filter
def left(until: datetime | None) -> str:
    """Return the time that remains, e.g. of a job."""
    if until is None:
        return "–"
    seconds = (until - timezone.now()).total_seconds()
    return span_words(seconds) if seconds > 0 else "over"


@register.filter
def span(seconds: float | None) -> str:
    return "–" if seconds is None else span_words(seconds)


@register.filter
def clock(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S") if at else "–"


@register.filter
def exactly(seconds: float) -> str:
    """Return the seconds as `span` does, with the tenths that a short time is about."""
    return f"{seconds:.1f} s" if seconds < 10 else span_words(seconds)


@register.filter
def words(name: str) -> str:
    """Return a name of the code as people write it: drain_replica → drain replica."""
    return name.replace("_", " ")


@register.simple_tag
def measured(name: str, value: Any) -> str:
    """Return a named number of a decision, with its unit behind it: idle_s 61.2 → idle 61.2 s."""
    stem, _, unit = name.rpartition("_")
    if unit not in UNITS:
        stem, unit = name, ""
    if value is None:
        return f"{words(stem)} unknown"
    return f"{words(stem)} {value} {UNITS.get(unit, '')}".rstrip()


@register.simple_tag
def tokens(prompt: int | None, completion: int | None) -> str:
    """Return input → output; a request that has not come so far has neither."""
    if prompt is None and completion is None:
        return "–"
    return f"{'–' if prompt is None else prompt} → {'–' if completion is None else completion}"


@register.simple_tag
def took(start: datetime, *ends: datetime | None) -> str:
    """Return the time from start to the first of the ends that has come, or to now."""
    until = next((end for end in ends if end is not None), None) or timezone.now()
    return exactly(max(0.0, (until - start).total_seconds()))


@register.simple_tag
def since(start: datetime, at: datetime) -> str:
    """Return how long after `start` something was; with a minus where it was before."""
    seconds = (at - start).total_seconds()
    return exactly(seconds) if seconds >= 0 else f"− {exactly(-seconds)}"
