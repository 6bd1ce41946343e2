"""Every setting of portal and scheduler, with its type, its unit and what it means: one frozen `Config`.

Separate from `environment`, which reads it and holds the defaults: this is the page to look a setting up on.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from portal.config import mail, oidc
from portal.config.installation import kept
from portal.policy.limits import Quota


class ConfigError(RuntimeError):
    """A setting is unknown, missing or of the wrong kind. The text says which and what to do."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of portal and scheduler. The name in the environment is BERTH_<FIELD IN CAPITALS>."""

    database_url: str
    """PostgreSQL, e.g. postgresql://berth@127.0.0.1:5432/berth."""
    relay_address: str
    """Where this gateway lends other gateways the links that pilots opened to it (link: reverse). Empty: a private unix
    socket, enough while all gateways stand on one host; else an address of this host that the other gateways' hosts
    reach, and nobody else needs to: 10.0.0.5, [fd00::5] or with ports, 10.0.0.5:20000-20010."""
    redis_url: str
    """Redis, e.g. redis://127.0.0.1:6379/0. Broker, slots and order; never a source of truth."""
    state_dir: Path
    """Folder 0700 with `instance`, `site.key` and `secret.key`; outside database dumps. Made on first use."""
    portal_url: str
    """Address that pilots on compute nodes dial, http(s)://host:port."""
    spool: Path
    """Folder on the cluster's side for pilots' 0600 secret files and job logs."""
    agent_python: str
    """Interpreter of the agent's environment as seen on compute nodes."""
    agent_home: str
    """Folder that holds the `gpuworker` package as seen on compute nodes."""
    serve: str
    """What this web process serves: all, gateway or site."""
    debug: bool
    allowed_hosts: tuple[str, ...]
    """Host names by which browsers and clients may ask, e.g. berth.example.org,10.0.0.5. Default: this machine's
    loopback and the host of BERTH_PORTAL_URL. Whoever sets it names all of them."""
    trusted_origins: tuple[str, ...]
    """Origins allowed to post forms, e.g. https://berth.example.org; the first is the one in mails. Empty: that of
    BERTH_PORTAL_URL. To be set where people reach the pages under another address than the nodes do."""
    secure_cookies: bool
    """True behind https. False only for the demo on loopback."""
    session_idle_s: float
    """A browser's session ends when nobody has used it for this long."""
    session_most_s: float
    """And this long after the log-in, however much it is used."""
    local_login: bool
    """Whether people log in with a password of this site. Administrators always may."""
    mail: mail.Mail
    """The server through which notices go out: BERTH_MAIL_HOST and so on, see portal/config/mail.py, docs/notices.md."""
    webhook_private: bool
    """Whether webhooks may name addresses of private networks and http://. Whoever may set one can then ask them."""
    notices_s: float
    """Seconds between looks at what people are to be told."""
    queue_old_min: float
    """Operators hear of requests, batches' aside, that have waited for so many minutes; 0: never."""
    oidc: tuple[oidc.Provider, ...]
    """Identity providers: BERTH_OIDC_ISSUER and so on, see portal/config/oidc.py and docs/accounts.md."""
    cluster: str
    """Name of the cluster to which Slurm's commands on this host lead. Others are reached by accesses (catalog)."""
    tick_s: float
    """Seconds between ticks of the control loop when nothing wakes it."""
    slurm_min_interval_s: float
    """Least seconds between two Slurm listings. 10 in production; lower loads slurmctld."""
    slurm_timeout_s: float
    """Seconds after which a Slurm command counts as "no answer"."""
    sync_interval_s: float
    """Seconds between a pilot's reports when nothing changes."""
    alive_s: float
    """A pilot that reported within this many seconds is alive whatever the listing says."""
    holder_stale_s: float
    """A gateway silent for this many seconds is gone; its waiting requests become async."""
    orphan_grace_s: float
    """Two listings this many seconds apart must agree before an orphan of ours is cancelled."""
    register_s: float
    """A job that has run for this many seconds without a word of its agent is cancelled."""
    silent_cancel_s: float
    """A job whose agent has been silent for this many seconds, while others were heard, is cancelled."""
    bad_node_after: int
    """Failed starts in a row on one node after which new jobs leave it out."""
    bad_node_s: float
    """How long such a node is left out."""
    pilot_idle_s: float
    """A pilot without replicas is let go after this many seconds."""
    switch_after_s: float
    """Idle time after which a resident model makes room for another's work."""
    min_residency_s: float
    """Least time that a model stays resident once it was loaded, so that switching does not thrash."""
    wait_bound_s: float
    """Work that has waited longer than this outweighs whatever is resident: the bound on starvation."""
    lull_s: float
    """A replica above need is let go after this many seconds without work."""
    hand_over_margin_s: float
    """Kept in hand when the successor of a job near its walltime is timed."""
    max_gpus: int
    """Most GPUs in all live jobs, whatever their cluster; 0: no cap but the profiles'."""
    launch_backoff_s: float
    """Wait after a failed launch, doubled for each one in a row."""
    latch_after: int
    """Failed launches in a row after which a pool waits for a person."""
    poison_after: int
    """Engine crashes under one request after which it fails as poison."""
    max_body_bytes: int
    """Largest request body accepted by the gateway."""
    max_wait_s: float
    """Longest time a non-streaming request is held for a model that is not ready."""
    ticket_s: float
    """How long a request keeps its place after its client was told to come again."""
    idempotency_s: float
    """How long the answer to a request with an Idempotency-Key is kept, in seconds."""
    heartbeat_s: float
    """Seconds between SSE comment heartbeats while a stream waits; at most 15."""
    lease_wait_s: float
    """Longest time a pilot's lease poll is held open."""
    result_keep_days: int
    """Days that results of async requests are kept."""
    limits: Mapping[str, Quota]
    """Quotas of subjects that have none of their own, by level (token, user, project, model), e.g.
    project.requests=600,project.tokens=200000,token.concurrent=64,user.queued=1000. Rates are per minute."""
    files_dir: Path
    """Folder 0700 with the content of batches' files. Shared by all gateways and Celery workers."""
    max_file_bytes: int
    """Largest file that may be uploaded."""
    max_batch_lines: int
    """Most requests in one batch."""
    file_keep_days: int
    """Days that uploaded files and batches' outputs are kept."""
    register_approval: bool
    """Whether a model that a project's manager registers waits for an operator's approval."""

    @property
    def origins(self) -> tuple[str, ...]:
        """Return the origins whose forms are taken: the trusted ones, else the scheme, host and port of `portal_url`."""
        parts = urlsplit(self.portal_url)
        return self.trusted_origins or (f"{parts.scheme}://{parts.netloc}",)

    @property
    def site(self) -> str:
        """Return where people find the pages, without a slash at its end: the first trusted origin, else `portal_url`."""
        return (self.trusted_origins or (self.portal_url,))[0].rstrip("/")

    @property
    def instance(self) -> str:
        """Return the name of this installation in Slurm job names; two of one user leave each other alone."""
        return kept(self.state_dir / "instance", lambda: secrets.token_hex(4))

    @property
    def site_key(self) -> bytes:
        """Return the key from which pilots' and ingresses' keys are derived. It never leaves the portal."""
        return kept(self.state_dir / "site.key", lambda: secrets.token_hex(32)).encode()

    @property
    def secret_key(self) -> str:
        """Return Django's SECRET_KEY."""
        return kept(self.state_dir / "secret.key", lambda: secrets.token_urlsafe(50))
