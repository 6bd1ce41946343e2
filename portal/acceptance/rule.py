"""A request that nobody waits for → queued, parked or refused, and its share of the line. Pure: values in, verdict out.

The one rule (decisions/0030) of all who take such requests: the gateway (`Prefer: respond-async`, `background: true`),
POST /api/v1/requests and the import of a batch. Each gathers the facts in its own way; none of them decides. What the
pool does at the moment (cold, paused, held back after failed starts) is no fact here: whoever does not wait keeps a place
in line, and is told the reason where he asks how it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from portal.admission.subjects import over
from portal.catalog.entries import ModelEntry
from portal.errors import ApiError
from portal.ledger.states import RequestState
from portal.policy.limits import Want

RETRY_S = 30  # nobody knows when one of those that wait is over

# What the limits per minute say: `unknown` is also what can only be counted later.
Rates = Literal["allow", "refuse", "unknown"]


@dataclass(frozen=True, slots=True)
class Crowd:
    """A limit of the requests that may wait, how many of its subject do, and how many come now."""

    limit: Want
    waiting: int
    coming: int = 1

    @property
    def is_over(self) -> bool:
        """Say whether more would wait than the limit allows."""
        return self.waiting + self.coming > self.limit.limit


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that the rule knows. `model`: what the catalog has under this name, None = nothing that is enabled."""

    name: str
    model: ModelEntry | None
    project: int
    crowds: Sequence[Crowd] = ()
    rates: Rates = "allow"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The rule's answer. `state`: in which the request enters the ledger; None = it is refused, with `error`.
    `crowd`: the limit of waiting requests that refused it, if one did."""

    state: RequestState | None
    error: ApiError | None = None
    crowd: Crowd | None = None

    def accepted(self) -> RequestState:
        """Return the state in which the request enters the ledger. Raises ApiError when it is refused."""
        if self.state is None:
            assert self.error is not None
            raise self.error
        return self.state


def verdict(facts: Facts) -> Verdict:
    """Decide, in this order.

    1. A model that is unknown, disabled or not for this project is refused as one that does not exist.
    2. Where more would wait than a limit allows, it is refused.
    3. Where a rate refuses, or cannot be asked now, it is parked until the rate has room.
    4. Else it is queued.
    """
    if facts.model is None or not facts.model.open_to(facts.project):  # 1
        return Verdict(None, ApiError("model_not_found", detail=facts.name[:128], param="model"))
    for crowd in facts.crowds:  # 2
        if crowd.is_over:
            return Verdict(None, over(crowd.limit, RETRY_S), crowd)
    if facts.rates != "allow":  # 3
        return Verdict(RequestState.PARKED)
    return Verdict(RequestState.QUEUED)  # 4


def share(tokens: int, weight: float) -> float:
    """Return what a request takes of its project's turns: its estimated tokens, divided by the project's weight."""
    return tokens / weight


def priority(named: int | None, usual: int) -> int:
    """Return the priority among what the project has waiting: the one that was named, else the member's usual one."""
    return usual if named is None else named
