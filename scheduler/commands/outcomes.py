"""How a command may end other than done. Separate, because every module that carries out commands raises them."""

from __future__ import annotations


class Refused(Exception):
    """A command that makes no sense now; the text goes back to whoever gave it."""


class Failed(Exception):
    """A command that was carried out, and what it was to show or bring about did not work; the text says why."""


class Later(Exception):
    """A command that stays pending, because somebody has not answered yet; the text says what it waits for."""
