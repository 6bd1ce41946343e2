"""Questions on standard input → pyslurm's answers on standard output, one line of JSON each.

Runs under the interpreter that a site built pyslurm for, which may be another Python than the scheduler's, perhaps on
another machine: standard library and pyslurm only. It is a process of its own because `import pyslurm` ends the process
where Slurm's configuration is wrong, and a call holds the interpreter for as long as munge or slurmctld do not answer.
`native_process` starts it, bounds it and ends it; nothing imports it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

# Longer than the asking side waits: this is for a helper whose asking side is gone, or behind a cut connection.
GRACE_S = 5.0
# A helper whose way is in use no longer goes by itself.
IDLE_S = 900.0

Row = dict[str, Any]


class Unavailable(Exception):
    """An error where this installation does not have the verb. The text says why."""


class NotKnown(Exception):
    """An error where there is no answer now. The text says why."""


def main(mark: str) -> None:
    """Answer until standard input ends. `mark` begins each line that is an answer."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Whatever libslurm, pyslurm or a plugin prints is no answer: from here on it goes where errors go.
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def say(what: Row) -> None:
        out.write(mark + json.dumps(what) + "\n")
        out.flush()

    say({"hello": sys.version.split()[0]})
    for line in sys.stdin:
        asked = json.loads(line)
        # Ends the process by the kernel's hand, even where a call of libslurm's holds the interpreter.
        signal.setitimer(signal.ITIMER_REAL, asked["limit_s"] + GRACE_S)
        say({"id": asked["id"], **answer(asked["verb"], asked["args"])})
        signal.setitimer(signal.ITIMER_REAL, IDLE_S)


def answer(verb: str, args: Row) -> Row:
    """Return {"answer": …} or {"error": …, "number": …}, whatever happens."""
    try:
        import pyslurm  # type: ignore[import-not-found]
    except Exception as error:  # noqa: BLE001 - of an import anything may come
        return {"error": f"import pyslurm: {type(error).__name__}: {error}", "number": 0}
    try:
        return {"answer": VERBS[verb](pyslurm, **args)}
    except Unavailable as error:
        return {"error": str(error), "not_offered": True}
    except NotKnown as error:
        return {"error": str(error), "number": 0}
    except pyslurm.PyslurmError as error:
        return {"error": str(error), "number": getattr(error, "errno", 0) or 0}
    except (AttributeError, LookupError, NameError, TypeError, ValueError) as error:
        # pyslurm itself cannot make a job of what was asked: Slurm would have refused it without a reason.
        return {"error": f"pyslurm: {error}", "number": -1}
    except Exception as error:  # noqa: BLE001 - the next question deserves its answer
        return {"error": f"{type(error).__name__}: {error}", "number": 0}


def submit(pyslurm: Any, script: str, fields: Row, environment: Row) -> int:
    """Return the id of the new job."""
    # pyslurm puts every SLURM_* variable of this process into the job.
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SLURM_")}
    try:
        return int(pyslurm.JobSubmitDescription(script=script, environment=environment, **fields).submit())
    finally:
        os.environ.update(hidden)


def jobs(pyslurm: Any, user: str) -> list[Any]:
    """Return the jobs of `user`, or of whoever runs this, as rows."""
    # By number: where pyslurm cannot look a name up, a job has none, and our own must not look absent then.
    whose = number_of(user) if user else os.getuid()
    found = []
    for job in pyslurm.Jobs.load().values():
        if job.user_id != whose:
            continue
        found.append(
            {
                "job_id": int(job.id),
                "name": job.name or "",
                "state": str(job.state),
                "reason": str(job.state_reason or "None"),
                "partition": text(job.partition),
                "nodes": text(job.allocated_nodes),
                "submitted_at": moment(job.submit_time),
                "started_at": moment(job.start_time),
                "ends_at": moment(job.end_time),
                "node_count": int(job.num_nodes or 0) or None,
            }
        )
    return found


def number_of(user: str) -> int:
    """Return a user's id. Raise NotKnown where this machine cannot say it: that is no answer."""
    import pwd

    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, OSError):
        raise NotKnown(
            f"this machine does not know the user {user}: without a number its jobs cannot be told from others'. "
            "Mend the look-up of users (getent passwd), or the access's user"
        ) from None


def cancel(pyslurm: Any, job_ids: list[int]) -> list[Any]:
    """Return [id, error number, words] of each job that could not be ended."""
    failed = []
    for job_id in job_ids:
        try:
            pyslurm.Job(job_id).cancel()
        except pyslurm.RPCError as error:
            failed.append([job_id, error.errno or 0, str(error)])
    return failed


def partitions(pyslurm: Any) -> Row:
    """Return partitions and nodes as rows."""
    parts = [
        {"name": part.name, "state": str(part.state), "limit_min": minutes(part.max_time)}
        for part in pyslurm.Partitions.load().values()
    ]
    nodes = [
        {
            "state": str(node.state),
            "gres": gres(node.configured_gres),
            "cpus": int(node.total_cpus or 0),
            "mem_mb": int(node.real_memory or 0),
            "features": words(node.available_features),
            "partitions": words(node.partitions),
        }
        for node in pyslurm.Nodes.load().values()
    ]
    return {"partitions": parts, "nodes": nodes}


def reservations(pyslurm: Any) -> list[Any]:
    """Return reservations as rows."""
    return [
        {
            "name": one.name,
            "starts_at": moment(one.start_time),
            "ends_at": moment(one.end_time),
            "nodes": text(one.nodes),
            "partition": text(one.partition),
            "flags": flags(one.flags),
            "node_count": int(one.node_count or 0),
        }
        for one in pyslurm.Reservations.load().values()
    ]


def usage(pyslurm: Any, job_ids: list[int]) -> list[Any]:
    """Return what accounting recorded of these jobs, as rows."""
    want_accounting(pyslurm)
    found = pyslurm.db.Jobs.load(pyslurm.db.JobFilter(ids=job_ids))
    return [
        {
            "job_id": int(job.id),
            "state": str(job.state or ""),
            "exit_code": f"{job.exit_code or 0}:{job.exit_code_signal or 0}",
            "elapsed_s": int(job.elapsed_time or 0),
            "nodes": text(job.nodelist),
        }
        for job in found.values()
    ]


def accounts(pyslurm: Any, user: str) -> list[Any]:
    """Return [account, [QOS, …]] of each association of `user`, or of whoever runs this."""
    want_accounting(pyslurm)
    import pwd

    name = user or pwd.getpwuid(os.getuid()).pw_name
    found = pyslurm.db.Associations.load(pyslurm.db.AssociationFilter(users=[name]))
    rows = found.values() if hasattr(found, "values") else found
    return [[str(one.account), [str(qos) for qos in one.qos or ()]] for one in rows]


def want_accounting(pyslurm: Any) -> None:
    """Raise Unavailable where the cluster has no accounting: asking would wait for a server that is not there."""
    kind = pyslurm.slurmctld.Config.load().accounting_storage_type
    if not kind or str(kind).endswith("none"):
        raise Unavailable("this cluster has no accounting")


def text(value: Any) -> str:
    """Return names as one text, whichever way pyslurm gives them."""
    if value is None:
        return ""
    return value if isinstance(value, str) else ",".join(str(one) for one in value)


def words(value: Any) -> list[str]:
    """Return names as a list."""
    return [word for word in text(value).split(",") if word]


def moment(value: Any) -> Any:
    """Return UNIX seconds, or None for what Slurm does not know."""
    return float(value) if isinstance(value, int) and value > 0 else None


def minutes(value: Any) -> Any:
    """Return a limit in minutes, or None for one that is infinite."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def gres(value: Any) -> str:
    """Return {"gpu:a100": 4} as "gpu:a100:4"."""
    if isinstance(value, dict):
        return ",".join(f"{name}:{count}" for name, count in value.items())
    return text(value)


def flags(value: Any) -> list[Any]:
    """Return the names of flags, which are words or members of an enumeration."""
    if value is None:
        return []
    names = getattr(value, "name", None)
    if isinstance(names, str):
        return names.split("|")
    try:
        return [str(getattr(one, "name", one)) for one in value]
    except TypeError:
        return [str(value)]


VERBS: dict[str, Any] = {
    "submit": submit,
    "jobs": jobs,
    "cancel": cancel,
    "partitions": partitions,
    "reservations": reservations,
    "usage": usage,
    "accounts": accounts,
}

if __name__ == "__main__":
    main(sys.argv[1])
