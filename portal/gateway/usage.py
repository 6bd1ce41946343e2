"""What an engine says of tokens used, found cheaply at the end of its answer. Pure.

Streams are passed on by the chunk; only an event that can be the usage event is looked into, and where the
client did not ask for it, it is taken out again.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_TAIL = 65_536
_MOST = 2**31  # what the ledger's columns hold; an engine that says more, or less than none, does not count
_LONGEST_EVENT = 1_048_576
# /v1/responses has names of its own for them.
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,9})')
_COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,9})')
_DATA = re.compile(rb"^data:(.*)$", re.MULTILINE)
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def tokens(self) -> int | None:
        """Return all of them; None where the engine did not say."""
        return None if self.prompt_tokens is None else self.prompt_tokens + (self.completion_tokens or 0)


def of_answer(body: bytes) -> Usage:
    """Return the usage in a whole JSON answer."""
    at = body.rfind(b'"usage"', max(0, len(body) - _TAIL))
    if at < 0:
        return Usage()
    prompt, completion = _PROMPT.search(body, at), _COMPLETION.search(body, at)
    return _usage(int(prompt.group(1)) if prompt else None, int(completion.group(1)) if completion else None)


def _usage(prompt: int | None, completion: int | None) -> Usage:
    def meant(tokens: int | None) -> int | None:
        return tokens if tokens is not None and 0 <= tokens < _MOST else None

    return Usage(meant(prompt), meant(completion))


class UsageTap:
    """A look at each chunk of a stream, which answers what the client gets of it. `usage` is known at the end."""

    def __init__(self, strips: bool) -> None:
        self._strips = strips
        self._rest = b""  # an event that has not ended yet; nothing of it has been passed on
        self.usage = Usage()
        self.over = False  # the event that ends a response has been seen

    def feed(self, chunk: bytes) -> bytes:
        if not self._rest and chunk.endswith(b"\n\n"):
            return chunk if b'"usage"' not in chunk else self._events(chunk)
        data = self._rest + chunk
        cut = max((end.end() for end in _END.finditer(data)), default=0)
        self._rest = data[cut:]
        if len(self._rest) > _LONGEST_EVENT:
            cut, self._rest = len(data), b""
        whole = data[:cut]
        return whole if b'"usage"' not in whole else self._events(whole)

    def end(self) -> bytes:
        """Return what is left when the stream has ended."""
        rest, self._rest = self._rest, b""
        return self._events(rest) if b'"usage"' in rest else rest

    def _events(self, data: bytes) -> bytes:
        out = []
        start = 0
        ends = [match.end() for match in _END.finditer(data)]
        for end in [*ends, len(data)] if not ends or ends[-1] < len(data) else ends:
            event = data[start:end]
            start = end
            if b'"usage"' in event and self._took(event) and self._strips:
                continue
            out.append(event)
        return b"".join(out)

    def _took(self, event: bytes) -> bool:
        """Note an event's usage, and return True for the event that is there only for it."""
        data = _DATA.search(event)
        if data is None:
            return False
        try:
            said: Any = json.loads(data.group(1))
            response = said.get("response")
            usage: Any = (response if isinstance(response, dict) else said).get("usage")
            if isinstance(response, dict):
                found = _usage(int(usage["input_tokens"]), int(usage["output_tokens"]))
                self.over = True
            else:
                found = _usage(int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return False
        self.usage = found
        return _NO_CHOICES.search(event) is not None
