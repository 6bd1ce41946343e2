"""One of Slurm's realities on a whole Berth: work is accepted, something befalls its job, and two questions follow.

Was everything that was accepted answered, each request with its own words? And do the decision rows of that time,
read in order, tell what happened? Separate from `whole`, because every scenario ends with these two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

from tests.slurm.whole import WORDS, Held, Whole

Rows = list[tuple[str, str]]


@contextlib.contextmanager
def rival(whole: Whole, node: str, gpus: int = 4) -> Iterator[None]:
    """Run somebody else's job of higher priority on that node."""
    job = whole.slurm.run(
        "sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", "--partition=gpu",
        f"--nodelist={node}", f"--gres=gpu:a100:{gpus}", "--mem=1000", "--wrap=sleep 600",
    ).strip()  # fmt: skip
    try:
        yield
    finally:
        whole.slurm.run("scancel", job)


class Scenario:
    """A scenario from an empty fleet on. `cap`: how many requests one replica takes at once."""

    def __init__(
        self, whole: Whole, *, cap: int = 64, tokens_per_s: float = 200, keep_alive_s: int = 600
    ) -> None:
        self.whole = whole
        whole.empty()
        whole.tune(cap=cap, keep_alive_s=keep_alive_s, load_s=0, tokens_per_s=tokens_per_s)
        self._since = whole.last_decision()
        self._began = whole.one("SELECT now()")
        self._posted: dict[str, str] = {}
        self._held: list[tuple[str, Held]] = []

    def post(self, number: int = 1) -> list[str]:
        """Post detached requests, each with words of its own; return their ids."""
        texts = [f"{len(self._posted) + i} {WORDS}" for i in range(number)]
        made = {self.whole.post(text): text for text in texts}
        self._posted |= made
        return list(made)

    def ask(self, number: int = 1) -> None:
        """Ask by streams, each on a connection that waits for it."""
        for _ in range(number):
            text = f"held {len(self._held)} {WORDS}"
            self._held.append((text, self.whole.ask(text)))

    def running(self, number: int) -> int:
        """Wait until so many requests run; return the one job that they run in."""
        sql = "SELECT count(*) FROM ledger_request WHERE state = 'running'"
        self.whole.until(lambda: self.whole.one(sql) >= number, what=f"{number} running requests")
        [job] = self.whole.live_jobs()
        return job

    def answered(self, timeout_s: float = 180) -> None:
        """Check that everything accepted since the beginning has ended, once, with its own answer."""
        for text, held in self._held:
            said = held.result(timeout_s)
            assert said == text, f"{said}\n{self.story()}"
        sql = "SELECT count(*) FROM ledger_request WHERE accepted_at >= %s AND ended_at IS NULL"
        over = lambda: self.whole.one(sql, self._began) == 0  # noqa: E731
        self.whole.until(over, timeout_s, f"the end of all requests of {self.story()}")
        for request, text in self._posted.items():
            assert self.whole.text_of(request) == text
        sql = "SELECT state, count(*) FROM ledger_request WHERE accepted_at >= %s GROUP BY state"
        states = dict(self.whole.rows(sql, self._began))
        assert set(states) <= {"done"} and states.get("done", 0) >= len(self._posted), states

    def queued(self) -> None:
        """Check that what was posted waits in its line, in nobody's hands: accepted is kept."""
        sql = "SELECT id::text FROM ledger_request WHERE state = 'queued' AND holder IS NULL AND accepted_at >= %s"
        waiting = {row[0] for row in self.whole.rows(sql, self._began)}
        assert set(self._posted) <= waiting

    def story(self, beside: Collection[str] = ()) -> Rows:
        """Return decision rows, oldest first, as (kind, reason); without those of the kinds `beside`."""
        sql = "SELECT kind, reason FROM fleet_decision WHERE id > %s ORDER BY id"
        return [
            (str(kind), str(reason))
            for kind, reason in self.whole.rows(sql, self._since)
            if kind not in beside
        ]

    def replaced(self, lost: str) -> None:
        """Check that one job ended, with `lost` in its reason, and another was started for those that wait.

        Which of the two rows comes first is up to the moment of a tick: an agent says that it leaves, gives
        back the four that it ran, and only then is its job over.
        """
        [over] = [reason for kind, reason in self.story() if kind == "ended"]
        assert lost in over
        # A tick that looked at the reports just before the agent said that it leaves, and at the tables just after, takes
        # the job for one with free GPUs. The next tick knows better, so there is one such row at most.
        placed = [reason for kind, reason in self.story() if kind == "place"]
        assert len(placed) <= 1 and all(
            "a job that we already have holds free GPUs" in reason for reason in placed
        )
        new = ("launch", "waiting for echo, and no job of ours has room: a new one is submitted")
        self.told(new, new, beside={"ended", "place"})
        assert self.story({"ended", "place"})[1][1].startswith(("2 requests", "6 requests"))

    def told(self, *expected: tuple[str, str], beside: Collection[str] = ()) -> None:
        """Check that the rows are these and no others: each of this kind, with these words in its reason."""
        story = self.story(beside)
        read = "\n".join(f"{kind}: {reason}" for kind, reason in story)
        assert [kind for kind, _ in story] == [kind for kind, _ in expected], read
        for (kind, reason), (_, words) in zip(story, expected, strict=True):
            assert words in reason, f"{kind}: {words!r} is not in {reason!r}\n{read}"
