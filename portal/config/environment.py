"""Environment variables → one frozen, typed `Config`, parsed once at start.

The only module that reads `BERTH_*`. It is separate from Django's settings so that the gateway, which knows
no Django, is configured from the same place. An unknown `BERTH_*` variable is an error: a misspelt setting
that is silently ignored costs more than a start that fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from environs import Env, EnvError

from portal.config import mail, oidc
from portal.config.generated import kept
from portal.policy.limits import Quota, QuotaError, default_quotas

# Read by the development scripts and by processes that the portal starts, not by the portal itself.
_ELSEWHERE = {
    "BERTH_CACHE",
    "BERTH_RUN",
    "BERTH_DOOR_ADDRESS",
    "BERTH_DOOR_PORTS",
    "BERTH_JOB_LOG",
    "BERTH_LINK",
    "BERTH_SCRATCH",
    "BERTH_STARTED_AT",
    "BERTH_PILOT",
    "BERTH_PORTAL_SILENCE_S",
}


class ConfigError(RuntimeError):
    """A setting is unknown, missing or of the wrong kind. The text says which and what to do."""


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting of portal and scheduler. Name in the environment: BERTH_<FIELD IN CAPITALS>."""

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
        """Origins whose forms are taken: the trusted ones, else the scheme, host and port of `portal_url`."""
        parts = urlsplit(self.portal_url)
        return self.trusted_origins or (f"{parts.scheme}://{parts.netloc}",)

    @property
    def site(self) -> str:
        """Where people find the pages, without a slash at its end: the first trusted origin, else `portal_url`."""
        return (self.trusted_origins or (self.portal_url,))[0].rstrip("/")

    @property
    def instance(self) -> str:
        """Names this installation in Slurm job names; two installations of one user leave each other alone."""
        return kept(self.state_dir / "instance", lambda: secrets.token_hex(4))

    @property
    def site_key(self) -> bytes:
        """Key from which pilots' and ingresses' keys are derived. Never leaves the portal."""
        return kept(self.state_dir / "site.key", lambda: secrets.token_hex(32)).encode()

    @property
    def secret_key(self) -> str:
        """Django's SECRET_KEY."""
        return kept(self.state_dir / "secret.key", lambda: secrets.token_urlsafe(50))


def parse(environ: Mapping[str, str] | None = None) -> Config:
    """Settings from `environ` (default: the process's). Raises ConfigError."""
    values = os.environ if environ is None else environ
    fields = {f"BERTH_{field.name.upper()}" for field in dataclasses.fields(Config)}
    known = fields - {"BERTH_OIDC", "BERTH_MAIL"} | _ELSEWHERE  # those two are families, not variables
    unknown = sorted(
        name
        for name in values
        if name.startswith("BERTH_")
        and name not in known
        and not (name.startswith("BERTH_TEST_") or oidc.is_setting(name) or mail.is_setting(name))
    )
    if unknown:
        raise ConfigError(
            f"unknown setting {', '.join(unknown)}: check the spelling against portal/config/environment.py"
        )
    env = Env(prefix="BERTH_")
    root = Path(__file__).resolve().parents[2]
    with _environment(values):
        try:
            state_dir = Path(env.str("STATE_DIR", str(root / ".run" / "state")))
            portal_url = env.str("PORTAL_URL", "http://127.0.0.1:8000").rstrip("/")
            read = Config(
                database_url=env.str("DATABASE_URL", "postgresql://berth@127.0.0.1:5432/berth"),
                relay_address=env.str("RELAY_ADDRESS", ""),
                redis_url=env.str("REDIS_URL", "redis://127.0.0.1:6379/0"),
                state_dir=state_dir,
                portal_url=portal_url,
                spool=Path(env.str("SPOOL", str(root / ".run" / "spool"))),
                agent_python=env.str("AGENT_PYTHON", "python3"),
                agent_home=env.str("AGENT_HOME", str(root)),
                serve=env.str("SERVE", "all"),
                debug=env.bool("DEBUG", False),
                allowed_hosts=tuple(env.list("ALLOWED_HOSTS", _hosts(portal_url))),
                trusted_origins=tuple(env.list("TRUSTED_ORIGINS", [])),
                secure_cookies=env.bool("SECURE_COOKIES", True),
                session_idle_s=env.float("SESSION_IDLE_S", 12 * 3600.0),
                session_most_s=env.float("SESSION_MOST_S", 7 * 86_400.0),
                local_login=env.bool("LOCAL_LOGIN", True),
                oidc=oidc.read(values),
                mail=mail.read(values),
                webhook_private=env.bool("WEBHOOK_PRIVATE", False),
                notices_s=env.float("NOTICES_S", 15.0),
                queue_old_min=env.float("QUEUE_OLD_MIN", 30.0),
                cluster=env.str("CLUSTER", "main"),
                tick_s=env.float("TICK_S", 2.0),
                slurm_min_interval_s=env.float("SLURM_MIN_INTERVAL_S", 10.0),
                slurm_timeout_s=env.float("SLURM_TIMEOUT_S", 20.0),
                sync_interval_s=env.float("SYNC_INTERVAL_S", 2.0),
                alive_s=env.float("ALIVE_S", 30.0),
                holder_stale_s=env.float("HOLDER_STALE_S", 20.0),
                orphan_grace_s=env.float("ORPHAN_GRACE_S", 60.0),
                register_s=env.float("REGISTER_S", 300.0),
                silent_cancel_s=env.float("SILENT_CANCEL_S", 600.0),
                bad_node_after=env.int("BAD_NODE_AFTER", 2),
                bad_node_s=env.float("BAD_NODE_S", 1800.0),
                pilot_idle_s=env.float("PILOT_IDLE_S", 60.0),
                switch_after_s=env.float("SWITCH_AFTER_S", 30.0),
                min_residency_s=env.float("MIN_RESIDENCY_S", 60.0),
                wait_bound_s=env.float("WAIT_BOUND_S", 600.0),
                lull_s=env.float("LULL_S", 120.0),
                hand_over_margin_s=env.float("HAND_OVER_MARGIN_S", 15.0),
                max_gpus=env.int("MAX_GPUS", 0),
                launch_backoff_s=env.float("LAUNCH_BACKOFF_S", 5.0),
                latch_after=env.int("LATCH_AFTER", 3),
                poison_after=env.int("POISON_AFTER", 3),
                max_body_bytes=env.int("MAX_BODY_BYTES", 32 * 1024 * 1024),
                max_wait_s=env.float("MAX_WAIT_S", 540.0),
                ticket_s=env.float("TICKET_S", 1800.0),
                idempotency_s=env.float("IDEMPOTENCY_S", 86400.0),
                heartbeat_s=env.float("HEARTBEAT_S", 10.0),
                lease_wait_s=env.float("LEASE_WAIT_S", 20.0),
                result_keep_days=env.int("RESULT_KEEP_DAYS", 7),
                limits=default_quotas(env.list("LIMITS", [])),
                files_dir=Path(env.str("FILES_DIR", str(state_dir / "files"))),
                max_file_bytes=env.int("MAX_FILE_BYTES", 512 * 1024 * 1024),
                max_batch_lines=env.int("MAX_BATCH_LINES", 200_000),
                file_keep_days=env.int("FILE_KEEP_DAYS", 30),
                register_approval=env.bool("REGISTER_APPROVAL", True),
            )
        except oidc.OidcError as error:
            raise ConfigError(f"{error}: see docs/accounts.md") from None
        except mail.MailError as error:
            raise ConfigError(f"{error}: see docs/notices.md") from None
        except QuotaError as error:
            raise ConfigError(f"BERTH_LIMITS {error}") from None
        except EnvError as error:
            raise ConfigError(
                f"{error}: see portal/config/environment.py for kinds, units and defaults"
            ) from None
    _check(read)
    return read


def on_loopback(url: str) -> bool:
    """Whether an address means the machine itself, whoever dials it."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _hosts(portal_url: str) -> list[str]:
    """Return the loopback and the host of an address, as Django compares them: an IPv6 address in brackets."""
    try:
        host = urlsplit(portal_url).hostname or ""
    except ValueError:
        raise ConfigError(f"BERTH_PORTAL_URL is {portal_url!r}; it must be http(s)://host:port") from None
    own = f"[{host}]" if ":" in host else host
    return list(dict.fromkeys(filter(None, ("127.0.0.1", "localhost", own))))


def _check(read: Config) -> None:
    if read.serve not in ("all", "gateway", "site"):
        raise ConfigError(f"BERTH_SERVE is {read.serve!r}; it must be all, gateway or site")
    if not read.database_url.startswith(("postgresql://", "postgres://")):
        raise ConfigError(
            "BERTH_DATABASE_URL must be a postgresql:// address: the queue relies on PostgreSQL"
        )
    if not 0 < read.heartbeat_s <= 15:
        raise ConfigError(
            "BERTH_HEARTBEAT_S must lie in (0, 15]: proxies close streams that are silent for longer"
        )
    if not 60 <= read.session_idle_s <= read.session_most_s:
        raise ConfigError("BERTH_SESSION_IDLE_S must be at least 60 and at most BERTH_SESSION_MOST_S")
    if not (read.local_login or read.oidc):
        raise ConfigError("BERTH_LOCAL_LOGIN is off and no BERTH_OIDC_ISSUER is set: nobody could log in")
    if read.alive_s < 3 * read.sync_interval_s:
        raise ConfigError("BERTH_ALIVE_S must be at least three times BERTH_SYNC_INTERVAL_S")
    if read.silent_cancel_s <= read.alive_s:
        raise ConfigError(
            "BERTH_SILENT_CANCEL_S must be longer than BERTH_ALIVE_S: a replacement starts first"
        )


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """environs reads os.environ only; lend it `values` for the time of the parse."""
    if values is os.environ:
        yield
        return
    saved = dict(os.environ)
    os.environ.clear()
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


@functools.cache
def config() -> Config:
    """The process's settings."""
    return parse()
