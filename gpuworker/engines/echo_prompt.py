"""The body of a request → the text that the echo engine repeats, and its tokens: a token is a word with its blanks.

Separate because it knows nothing of serving.
"""

from __future__ import annotations

import re
from typing import Any

from gpuworker.engines import echo_responses


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*", text) or ([text] if text else [])


def prompt_of(body: dict[str, Any]) -> tuple[str, int]:
    """Return the text to echo, and how many tokens the whole prompt has."""
    if "messages" in body:
        texts = [_content(message.get("content")) for message in body["messages"]]
        users = [_content(m.get("content")) for m in body["messages"] if m.get("role") == "user"]
        return (users[-1] if users else ""), sum(len(tokens_of(text)) for text in texts)
    if isinstance(body.get("input"), list) and body["input"] and isinstance(body["input"][0], dict):
        text = echo_responses.input_text(body["input"])
        return text, len(tokens_of(text))
    prompt = body.get("prompt", body.get("input", ""))
    text = prompt if isinstance(prompt, str) else " ".join(str(part) for part in prompt)
    return text, len(tokens_of(text))


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content or "")
