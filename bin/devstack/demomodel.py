"""Turns bin/demo_model.py into a trained model in the cache, named by a hash of its sources."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
import time
from pathlib import Path

from devstack.checkout import ROOT, cache_dir
from devstack.envs import REPORT_EVERY_S, VLLM_CPU, clean_environment
from devstack.say import Progress, StepFailed, tail

SOURCES = ("demo_model.py", "demo_qa.json")


def folder() -> Path:
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((ROOT / "bin" / name).read_bytes() + b"\0")
    return cache_dir() / "models" / f"demo-model-{digest.hexdigest()[:12]}"


def ensure(progress: Progress) -> Path:
    """The trained model's folder; trains it first (about half a minute) where it is missing."""
    out = folder()
    if (out / ".complete").exists():
        return out
    with progress.step("Train the demo model") as note:
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        log = out.with_suffix(".log")
        argv = [str(VLLM_CPU.python), str(ROOT / "bin" / "demo_model.py"), "--out", str(out)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(),
            )
        pause = threading.Event()
        told = time.monotonic()
        try:
            while process.poll() is None:
                pause.wait(0.1)
                if time.monotonic() - told >= REPORT_EVERY_S:
                    told = time.monotonic()
                    note(" ".join(tail(log, 1)) or "loading torch")
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.returncode != 0:
            raise StepFailed(f"demo_model.py ended with status {process.returncode}", "", log)
        (out / ".complete").touch()
    return out
