"""Turns a question into a streamed answer over Berth's HTTP API, telling what the waiting looks like.

Separate because it is what any client does: it knows the address and a token, and nothing of the stack behind them.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from devstack.say import StepFailed

SILENCE_S = 60.0  # heartbeats come at least every 15 s


@dataclass(frozen=True)
class Answer:
    """An answer: the text, the id to ask for details with, and two times in seconds since the question was
    sent."""

    text: str
    request_id: str
    first_token_s: float
    total_s: float


def ask(url: str, token: str, model: str, question: str, heard: Callable[[str], None]) -> Answer:
    """Ask with POST /v1/chat/completions and streaming; pass each heartbeat to `heard`.

    Raise StepFailed on an error.
    """
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "stream": True,
            "temperature": 0,
            "max_tokens": 96,
        }
    )
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=SILENCE_S)
    began = time.monotonic()
    first_s = 0.0
    parts: list[str] = []
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        if response.status != 200:
            said = response.read(2000).decode(errors="replace")
            raise StepFailed(f"the portal answered {response.status}: {said}")
        request_id = response.getheader("x-request-id") or ""
        for piece in content(response, heard):
            first_s = first_s or time.monotonic() - began
            parts.append(piece)
    except (OSError, http.client.HTTPException) as error:
        raise StepFailed(f"the connection to the portal broke: {error}") from None
    finally:
        connection.close()
    return Answer("".join(parts), request_id, first_s, time.monotonic() - began)


def content(response: http.client.HTTPResponse, heard: Callable[[str], None]) -> Iterator[str]:
    """Yield the pieces of text in a server-sent event stream, up to `[DONE]`."""
    while True:
        line = response.readline().decode(errors="replace")
        if not line:
            raise StepFailed("the stream ended without [DONE]")
        line = line.strip()
        if line.startswith(":"):
            heard(line[1:].strip())
        elif line == "data: [DONE]":
            return
        elif line.startswith("data:"):
            event = json.loads(line[5:])
            if "error" in event:
                raise StepFailed(f"the stream ended with an error: {json.dumps(event['error'])}")
            for choice in event.get("choices", []):
                if piece := choice.get("delta", {}).get("content"):
                    yield piece


def get_json(url: str, token: str, path: str) -> dict[str, Any]:
    """Get a JSON object with a token. Raise StepFailed on anything else."""
    request = urllib.request.Request(f"{url}{path}", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            value = json.load(answer)
    except urllib.error.HTTPError as error:
        raise StepFailed(f"GET {path}: {error.code}: {error.read(500).decode(errors='replace')}") from None
    except (OSError, ValueError) as error:
        raise StepFailed(f"GET {path}: {error}") from None
    if not isinstance(value, dict):
        raise StepFailed(f"GET {path}: not an object")
    return value
