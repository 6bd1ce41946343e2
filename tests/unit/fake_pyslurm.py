"""Makes an interpreter with a pyslurm that a test wrote: the boundary at which the native client is faked."""

from __future__ import annotations

import sys
from pathlib import Path

# In the shapes of pyslurm 25.11. `plan.py`, beside it, is the test's own and read at import.
PYSLURM = """
import json, os, pathlib, signal, sys, time, types

HERE = pathlib.Path(__file__).parent
class PyslurmError(Exception): pass
class RPCError(PyslurmError):
    def __init__(self, errno=-1, msg=None):
        self.errno = errno
        super().__init__(msg or f"error {errno}")

class Many(dict):
    @classmethod
    def load(cls, *a, **k):
        called(cls.__name__)
        return cls(MANY.get(cls.__name__, {}))

class Jobs(Many): pass
class Partitions(Many): pass
class Nodes(Many): pass
class Reservations(Many): pass

class Thing:
    def __init__(self, **fields): self.__dict__.update(fields)
    def __iter__(self): return iter(self.__dict__.values())

class Job:
    def __init__(self, job_id): self.id = job_id
    def cancel(self):
        called("cancel", self.id)
        if self.id in FAILS: raise RPCError(FAILS[self.id], "no")

class JobSubmitDescription:
    def __init__(self, **fields): self.fields = fields
    def submit(self):
        leaked = {k: v for k, v in os.environ.items() if k.startswith("SLURM_")}
        (HERE / "submitted.json").write_text(json.dumps([self.fields, leaked]))
        called("submit")
        return 77

MANY, FAILS = {}, {}
def called(name, *args): pass
class slurmctld:
    class Config:
        accounting_storage_type = None
        @classmethod
        def load(cls): return cls
class db:
    class Jobs(Many): pass
    class JobFilter(Thing): pass
    class Associations(Many): pass
    class AssociationFilter(Thing): pass

(HERE / "imports").open("a").write("x\\n")
exec((HERE / "plan.py").read_text())
"""


def interpreter(folder: Path, plan: str = "") -> str:
    """Return the path of a Python that finds this pyslurm; what a site's own wrapper would look like."""
    (folder / "pyslurm").mkdir()
    (folder / "pyslurm" / "__init__.py").write_text(PYSLURM)
    replan(folder, plan)
    python = folder / "python with pyslurm"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


def replan(folder: Path, plan: str) -> None:
    """Write what the next helper's pyslurm does."""
    (folder / "pyslurm" / "plan.py").write_text(plan)


def imports(folder: Path) -> int:
    """Count the helpers that have imported it."""
    path = folder / "pyslurm" / "imports"
    return len(path.read_text().splitlines()) if path.exists() else 0
