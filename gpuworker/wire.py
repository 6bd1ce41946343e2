"""What gpuworkers and the portal say to each other: JSON bodies as frozen dataclasses.

Standard library only, because both sides import it: it is the one module of `gpuworker` that the portal
may know. Unknown fields are ignored on reading and fields that came later have defaults, so that agents and
portals of different ages understand each other; a missing or mistyped field raises `WireError`, which the
reader turns into a 400.

Times are UNIX seconds (float, UTC) of the portal's clock: the agent converts them (gpuworker.clock). Bodies of
requests and results are bytes: they travel as text where they are UTF-8, as JSON is, and else in base64.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Any, Literal

from gpuworker.endpoints import CHAT as CHAT
from gpuworker.endpoints import ENDPOINTS as ENDPOINTS
from gpuworker.endpoints import ENGINE_PATHS as ENGINE_PATHS
from gpuworker.endpoints import JSON as JSON
from gpuworker.endpoints import RESPONSE as RESPONSE
from gpuworker.endpoints import Endpoint as Endpoint
from gpuworker.endpoints import Estimate as Estimate
from gpuworker.endpoints import estimate_at as estimate_at
from gpuworker.frames import accept_of as accept_of
from gpuworker.tunnel import Tunnel as Tunnel
from gpuworker.tunnel import watch as watch
from gpuworker.wireformat import WireError as WireError
from gpuworker.wireformat import dumps as dumps
from gpuworker.wireformat import loads as loads
from gpuworker.wireformat import read as read

# Headers between gateway and ingress (DESIGN §3). The key proves a gateway; the rest is the fence.
HEADER_KEY = "x-berth-key"
HEADER_REPLICA = "x-berth-replica"
HEADER_REQUEST = "x-berth-request"
HEADER_ATTEMPT = "x-berth-attempt"
# "1": an engine has died under this request before. It runs alone: the ingress refuses it (`busy`) while
# anything else is in flight on the replica, and refuses everything else (`busy`) while it runs.
HEADER_ALONE = "x-berth-alone"
# Answers of the ingress. `refused`: no engine has seen the request, it may be sent elsewhere.
# `lost`: the engine went away under it; value "crash" when the engine process died.
HEADER_REFUSED = "x-berth-refused"
HEADER_LOST = "x-berth-lost"

# Where an ingress proves, without a key, that it is the one that was advertised (`ingress_proof`).
PROOF_PATH = "/berth/proof"
# Links that the agent opens where its node cannot be dialled (decisions/0023): a WebSocket to the portal, carrying the
# bytes of HTTP/1.1, the portal asking. The pilot's portal token proves it, these say whose it is. A route over them is
# REVERSE and the pilot's id, and nobody dials it. The agent pings; an end that has heard nothing for SILENT_S is alone.
LINK_PATH = "/worker/v1/link"
HEADER_PILOT = "x-berth-pilot"
HEADER_JOB = "x-berth-job"
REVERSE = "reverse:"
PING_S = 15.0
SILENT_S = 45.0

# Before an agent's last words where these are why its job could not serve at all: a failed launch, not an end.
REFUSED = "refused: "

# Why a replica is `starting`. "": an agent of before does not say.
Start = Literal["", "load", "wake"]
EngineName = Literal["vllm", "torch", "echo"]
ImageGpu = Literal["", "nv", "rocm"]
DesiredState = Literal["hot", "draining", "asleep", "stopped"]
ObservedState = Literal["starting", "hot", "draining", "asleep", "stopped", "failed"]
Outcome = Literal["done", "failed", "back"]


@dataclass(frozen=True, slots=True)
class Secret:
    """The 0600 file beside a job: all that a pilot must keep to itself."""

    pilot: str
    portal_url: str
    portal_token: str
    ingress_key: str


@dataclass(frozen=True, slots=True)
class Register:
    """An agent's first word. The portal compares and sets on (pilot, job_id); the loser exits."""

    pilot: str
    job_id: int
    restart_count: int
    node: str
    address: str  # where gateways reach the ingress, e.g. http://10.0.0.7:40123; opaque to the gateway
    started_at: float  # first line of the job script
    agent_at: float  # the agent process is up
    agent_version: str
    gpus: list[str]  # for people: UUIDs where the device side was asked; of several nodes in order of rank
    host_mem_mb: int  # on each node
    sent_at: float = 0.0  # by the clock of its other times; 0: an agent of before
    refusal: str = ""  # why this job cannot serve, in words: it ends, and nothing is desired of it
    # More addresses of the ingress, for when the first is not reached.
    others: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Tried:
    """One address of an ingress, and why the portal did not reach it."""

    address: str
    why: str


@dataclass(frozen=True, slots=True)
class Unreached:
    """The answer to `register` (status 424) where the portal reached none of the addresses: nothing was registered."""

    tried: list[Tried]
    known: bool  # this job is registered already, and may serve through others


@dataclass(frozen=True, slots=True)
class HostedModel:
    """One model that a replica is to serve."""

    name: str  # what clients say; also the engine's served name
    path: str  # its folder as seen on the node; "" for echo
    revision: str = ""  # the catalog's word for the state of its weights
    roots: list[str] = field(default_factory=list)  # the folder must lie below one of them; none: anywhere


@dataclass(frozen=True, slots=True)
class DesiredReplica:
    """One replica as the control loop wants it, with everything the agent needs to start its engine."""

    id: str
    pool: str
    model: str  # of the first of `models`, as `path` and `roots`: all that an agent of before reads
    engine: EngineName
    state: DesiredState
    path: str
    python: str  # the environment's interpreter; "" = the agent's own
    gpus: list[int]  # indices into Register.gpus
    cap: int  # requests in flight, held + filler
    args: dict[str, Any]  # engine arguments from the catalog
    load_limit_s: float  # not ready by then = failed
    drain_limit_s: float
    may_sleep: int = 0  # how deep the pool lets it sleep: tried before it is hot
    sleep_level: int = 0  # state "asleep": drain, then sleep so deep
    roots: list[str] = field(default_factory=list)
    prologue: str = ""  # the environment's shell lines, run before its engine
    image: str = ""  # the environment's Apptainer image; "" = none
    image_gpu: ImageGpu = ""
    binds: list[str] = field(default_factory=list)  # further folders inside the image
    models: list[HostedModel] = field(default_factory=list)  # its base first; empty: a portal of before

    @property
    def hosted(self) -> list[HostedModel]:
        """Return what it is to serve, its base first: at least one model, whatever the age of the portal."""
        return self.models or [HostedModel(self.model, self.path, roots=self.roots)]


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """One replica as the agent sees it. States only move forward here; the portal compares and sets."""

    id: str
    pool: str
    model: str
    state: ObservedState
    phase: str  # the engine's own words while starting, e.g. "loading weights"
    cap: int
    held: int  # requests in flight pushed by gateways
    filler: int  # requests in flight pulled by the leaser
    started_at: float | None  # engine process started
    hot_at: float | None  # engine answered its health check
    idle_since: float | None  # nothing in flight since then; None while busy
    error: str  # why it failed, in words, with the end of the engine's log
    crashes: int
    mem_mb: int
    engine_version: str
    served: int = 0  # requests that have ended here
    busy_s: float = 0.0  # the time each of them took, summed
    can_sleep: int = 0  # the deepest sleep that was seen to free its GPUs; 0: none, or never tried
    asleep_mem_mb: int = 0  # host memory while asleep
    wakes: int = 0  # after the first, started_at and hot_at are of a wake, not of a load
    wake_s: float | None = None  # what the last one took, the one on trial too
    start: Start = ""  # why it is starting


@dataclass(frozen=True, slots=True)
class RowRef:
    """One pulled row at one attempt."""

    request: str
    attempt: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The facts in a model's folder. Numbers are 0 where it says nothing; texts are as short as they are
    plain."""

    folder: str  # resolved
    architecture: str
    dtype: str
    quantisation: str
    context_tokens: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    parameters: int
    weights_bytes: int
    files: int
    other_weights: list[str]  # files that run code when they are loaded, or may
    needs_code: bool  # it brings Python of its own
    has_chat_template: bool
    is_embedding: bool
    revision: str
    gpu_mem_mb: int  # of the smallest GPU of this job


@dataclass(frozen=True, slots=True)
class Inspected:
    """The answer to an InspectWish: the facts, or why there are none, in words."""

    id: int
    error: str
    facts: ModelFacts | None


@dataclass(frozen=True, slots=True)
class Sync:
    """A report of a pilot, sent every `interval_s` and at once when something changes."""

    pilot: str
    job_id: int
    seq: int  # rises by one, from the agent's start in ms, so also over a restart; the portal ignores a lower one
    at: float
    draining: bool
    ending: str  # "" or why the agent is about to exit: "drained", "walltime", "preempted", "portal silent"…
    replicas: list[ObservedReplica]
    # Every pulled row this agent still owes an end: waiting here, running, or its result not yet taken. A row
    # granted to this pilot well before `at` (30 s) and missing here was lost on its way (a lease answer that
    # never arrived, an agent that was restarted): the portal moves it back.
    rows: list[RowRef]
    log_tail: str | None  # only when the last answer asked for it
    staged: list[str] = field(default_factory=list)  # pools whose weights lie complete on its scratch
    inspected: list[Inspected] = field(default_factory=list)  # until the portal wishes it no more


@dataclass(frozen=True, slots=True)
class Cancel:
    request: str
    attempt: int


@dataclass(frozen=True, slots=True)
class StageWish:
    """A model's folder to be copied to node-local scratch, ahead of need. A favour: it may be ignored."""

    pool: str
    path: str


@dataclass(frozen=True, slots=True)
class InspectWish:
    """A model's folder to be looked at: what it is, before anybody serves it. It must lie below one of `roots`."""

    id: int
    path: str
    roots: list[str]


@dataclass(frozen=True, slots=True)
class SyncAnswer:
    """The answer to `sync`, and to `register`: what the loop wants of this pilot now."""

    desired: list[DesiredReplica]
    drain: bool  # finish what runs, start nothing, then exit
    deadline_at: float | None  # when Slurm will end the job
    cancels: list[Cancel]  # pulled rows that nobody wants any more
    interval_s: float
    want_log: bool
    at: float = 0.0  # the portal's clock when it answered; 0: a portal of before
    stage: list[StageWish] = field(default_factory=list)
    inspect: list[InspectWish] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LeaseAsk:
    """A long poll: rows for replicas that have room. `room` maps replica id to free places."""

    pilot: str
    room: dict[str, int]
    wait_s: float


@dataclass(frozen=True, slots=True)
class LeasedRow:
    request: str
    attempt: int
    replica: str
    api: str  # one of ENDPOINTS: what it was asked at
    alone: bool  # see HEADER_ALONE; the leaser runs it when the replica is otherwise idle
    body: bytes
    content_type: str = JSON
    engine_path: str = ""  # where the engine is asked; "": where ENDPOINTS says


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    rows: list[LeasedRow]


@dataclass(frozen=True, slots=True)
class RowResult:
    """The end of one leased row. `back`: not run to its end through no fault of its own (drain, cancel of
    the job); with `crashed` the engine died under it, which counts against the row."""

    request: str
    attempt: int
    outcome: Outcome
    status: int  # HTTP status of the engine; 0 when it never answered
    body: bytes  # the engine's answer, or an OpenAI error envelope
    error_code: str  # "" when done
    crashed: bool
    first_token_at: float | None
    ended_at: float
    prompt_tokens: int | None  # as the engine counted them; None: it counts none at this endpoint
    completion_tokens: int | None
    content_type: str = JSON  # of the body


@dataclass(frozen=True, slots=True)
class Results:
    pilot: str
    results: list[RowResult]


@dataclass(frozen=True, slots=True)
class ResultsAnswer:
    """The answer to `results`.

    `late`: rows that were no longer this pilot's at this attempt; their results were dropped.
    """

    taken: list[str]
    late: list[str]


def ingress_proof(ingress_key: str, nonce: str, address: str) -> str:
    """Return what the ingress that listens on `address` answers to a nonce, in hex.

    Whoever else has that port does not know the key, and the key is never sent. The address is part of it, so that
    nobody passes the question on to an ingress elsewhere.
    """
    return hmac.new(ingress_key.encode(), f"proof:{nonce}:{address}".encode(), "sha256").hexdigest()


def derive_key(site_key: bytes, purpose: Literal["ingress", "portal", "relay"], pilot: str) -> str:
    """Return HMAC-SHA256(site key, purpose:pilot) in hex: derived on demand, stored nowhere but in the
    pilot's file."""
    return hmac.new(site_key, f"{purpose}:{pilot}".encode(), "sha256").hexdigest()
