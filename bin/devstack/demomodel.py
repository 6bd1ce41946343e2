"""Turns bin/demo_model.py into a trained model in the cache, named by a hash of its sources."""

from __future__ import annotations

import hashlib
from pathlib import Path

from devstack import longrun
from devstack.checkout import ROOT, cache_dir
from devstack.envs import VLLM_CPU, clean_environment
from devstack.say import Progress, StepFailed

SOURCES = ("demo_model.py", "demo_qa.json")


def folder() -> Path:
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((ROOT / "bin" / name).read_bytes() + b"\0")
    return cache_dir() / "models" / f"demo-model-{digest.hexdigest()[:12]}"


def ensure(progress: Progress) -> Path:
    """Return the trained model's folder; train it first (about half a minute) where it is missing."""
    out = folder()
    if out.exists():  # the script renames a finished, checked model into place
        return out
    with progress.step("Train the demo model") as note, longrun.only_one(out, note):
        if out.exists():
            return out
        log = out.with_name(f"{out.name}.log")
        argv = [str(VLLM_CPU.python), str(ROOT / "bin" / "demo_model.py"), "--out", str(out)]
        code = longrun.run(argv, log, note, longrun.last_line, env=clean_environment())
        if code != 0:
            raise StepFailed(f"demo_model.py ended with status {code}", "run it by hand to see more", log)
    return out
