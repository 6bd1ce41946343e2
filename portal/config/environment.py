"""Environment variables → one frozen, typed `Config` (`values`), parsed once at start; the defaults stand here.

The only module that reads `BERTH_*`. It is separate from Django's settings so that the gateway, which knows
no Django, is configured from the same place. An unknown `BERTH_*` variable is an error: a misspelt setting
that is silently ignored costs more than a start that fails.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from environs import Env, EnvError

from portal.config import mail, oidc
from portal.config.values import Config, ConfigError
from portal.policy.limits import QuotaError, default_quotas

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


def parse(environ: Mapping[str, str] | None = None) -> Config:
    """Return the settings of `environ` (default: the process's). Raise ConfigError."""
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
            f"unknown setting {', '.join(unknown)}: check the spelling against portal/config/values.py"
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
            raise ConfigError(f"{error}: see portal/config/values.py for kinds and units") from None
    _check(read)
    return read


def on_loopback(url: str) -> bool:
    """Return whether an address means the machine itself, whoever dials it."""
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
    """Lend `values` to os.environ for the time of the parse: environs reads nothing else."""
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
    """Return the process's settings."""
    return parse()
