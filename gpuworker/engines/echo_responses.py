"""The echo engine's words for /v1/responses: tokens of an answer → the object, or the events of a stream.

Separate from `echo_server` because the shapes share nothing with those of completions. Pure.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncIterator
from typing import Any


def input_text(given: Any) -> str:
    """Return the text to echo: the input itself, or that of the last user's item."""
    if isinstance(given, str):
        return given
    texts = []
    for item in given:
        content = item.get("content") if isinstance(item, dict) else item
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) for part in content)
        texts.append(str(content or ""))
    return texts[-1] if texts else ""


def response(
    number: int, model: str, text: str, status: str, tokens: tuple[int, int] | None
) -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": []}
    message = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [content],
    }
    usage = None
    if tokens is not None:
        usage = {
            "input_tokens": tokens[0],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": tokens[1],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sum(tokens),
        }
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": model,
        "output": [message] if status == "completed" else [],
        "usage": usage,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "temperature": 1.0,
        "top_p": 1.0,
        "background": False,
    }


async def events(
    number: int, model: str, words: AsyncIterator[str], prompt_tokens: int
) -> AsyncIterator[bytes]:
    """Yield the events of a response from `created` to `completed` in the order of the API.

    The last one carries the usage, and no [DONE] follows, as with vLLM.
    """
    sequence = itertools.count()
    place = {"item_id": f"msg_{number}", "output_index": 0, "content_index": 0}
    item = {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": []}
    begun = response(number, model, "", "in_progress", None)
    yield event(next(sequence), "response.created", response=begun)
    yield event(next(sequence), "response.output_item.added", output_index=0, item=item)
    yield event(next(sequence), "response.content_part.added", **place, part=part)
    said: list[str] = []
    async for word in words:
        said.append(word)
        yield event(next(sequence), "response.output_text.delta", **place, delta=word, logprobs=[])
    text = "".join(said)
    whole = response(number, model, text, "completed", (prompt_tokens, len(said)))
    (item,) = whole["output"]
    yield event(next(sequence), "response.output_text.done", **place, text=text, logprobs=[])
    yield event(next(sequence), "response.content_part.done", **place, part={**part, "text": text})
    yield event(next(sequence), "response.output_item.done", output_index=0, item=item)
    yield event(next(sequence), "response.completed", response=whole)


def event(sequence: int, kind: str, **said: Any) -> bytes:
    text = json.dumps({"type": kind, "sequence_number": sequence, **said}, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode()
