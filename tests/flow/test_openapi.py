"""The OpenAPI document against the running portal: whatever it allows, and much that it does not, is answered as it
says and never with a 5xx.

Everything is real: web (gateway, worker API, Django) as a process of its own, PostgreSQL, Redis, and a gpuworker with
the echo engine. Schemathesis makes the requests; half of them break the document's rules on purpose.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from django.core.management import call_command
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.flow.running_portal import Portal

FEW, MANY = 4, 100  # examples of each operation, of each kind
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    ignored_auth,
]


def document() -> dict[str, Any]:
    out = io.StringIO()
    call_command("spectacular", "--format", "openapi-json", stdout=out)
    made: dict[str, Any] = json.loads(out.getvalue())
    return made


def operations() -> dict[str, Any]:
    schema = schemathesis.openapi.from_dict(document())
    # One that cannot be read raises here.
    found: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    return {operation.label: operation for operation in found}


def hold_against(portal: Portal, examples: int) -> None:
    """Try every operation of the document, in both ways."""
    wrong: dict[str, str] = {}
    for label, operation in operations().items():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _checked(portal, operation, mode, examples)()
            except FailureGroup as found:
                wrong[f"{label} ({mode.value})"] = str(found)
    assert not wrong, "\n\n".join(f"== {label}\n{text[:3000]}" for label, text in wrong.items())


def _checked(portal: Portal, operation: Any, mode: GenerationMode, examples: int) -> Callable[[], None]:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples == FEW,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode), meant=st.booleans(), data=st.data())
    def check(case: Any, meant: bool, data: st.DataObject) -> None:
        if meant:  # what random names and ids never reach
            for name in case.path_parameters or {}:
                case.path_parameters[name] = data.draw(st.sampled_from(portal.known[name]))
            if isinstance(case.body, dict):
                case.body |= {name: value for name, value in portal.good.items() if name in case.body}
        headers = {"Authorization": f"Bearer {portal.token}"}
        answer = case.call(base_url=portal.url, headers=headers)
        case.validate_response(answer, checks=CHECKS, headers=headers)

    return check


async def test_no_request_is_answered_otherwise_than_the_document_says(portal: Portal) -> None:
    await asyncio.to_thread(hold_against, portal, FEW)


@pytest.mark.nightly
@pytest.mark.timeout(900)
async def test_nor_is_one_of_many_more(portal: Portal) -> None:
    await asyncio.to_thread(hold_against, portal, MANY)
