"""How a command may end other than done. Separate, because every module that carries out commands raises them."""

from __future__ import annotations


class Refused(Exception):
    """The command makes no sense now; the text goes back to whoever gave it."""


class Failed(Exception):
    """It was carried out, and what it was to show or bring about did not work; the text says why."""


class Later(Exception):
    """Somebody has not answered yet: the command stays pending, and the text says what it waits for."""
