"""The releases of Slurm that tests run against beside the machine's own: their trees, built when a test first asks.

An ordinary user has none, which is said. Where root has none, because no mirror answers, the tests that want one fail.
"""

from __future__ import annotations

import pytest
from devstack import trees
from devstack.say import Progress, StepFailed
from devstack.trees import Tree

SUITES = tuple(trees.TREES)
_failed: dict[str, str] = {}  # tried once per run: a mirror that does not answer may take minutes to say so


def tree(suite: str) -> Tree:
    """Return the tree, built if need be. Skips the test as an ordinary user, fails it where there can be none."""
    if why := trees.refusal():
        pytest.skip(why)
    if suite not in _failed:
        try:
            return trees.ensure(trees.TREES[suite], Progress())
        except StepFailed as failure:
            _failed[suite] = failure.text()
    pytest.fail(_failed[suite], pytrace=False)
