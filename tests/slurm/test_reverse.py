"""`link: reverse`: nodes that the portal cannot dial, each connection to them dropped in silence. The agents open links
to the portal, and everything goes as it does where the portal dials.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator

import pytest
from devstack import apt, checkout, hosts
from devstack.procs import wait_until
from devstack.say import SILENT

from tests.slurm.scenario import Scenario
from tests.slurm.whole import POOL, WORDS, Whole

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(hosts.why_not() != "", reason=f"no hosts of their own: {hosts.why_not()}"),
]


@pytest.fixture
def closed(whole: Whole) -> Iterator[None]:
    """Close every way from the portal to any node; the profile says so."""
    apt.install(apt.FIREWALL, SILENT, checkout.cache_dir() / "apt.log")
    names = whole.slurm.spec.node_names
    whole.empty()
    for name in names:
        whole.slurm.hosts.close_to_portal(name)
    try:
        with whole.profile(link="reverse"):
            yield
    finally:
        whole.empty()
        for name in names:
            whole.slurm.hosts.mend(name)
        whole.relaunch()


def _whole_answer(whole: Whole, text: str) -> str:
    body = {"model": POOL, "messages": [{"role": "user", "content": text}], "max_tokens": 64}
    link = http.client.HTTPConnection("127.0.0.1", whole.site.port, timeout=120)
    headers = {"Authorization": f"Bearer {whole.berth.token}", "Content-Type": "application/json"}
    with contextlib.closing(link):
        link.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = link.getresponse()
        said = json.load(answer)
        assert answer.status == 200, said
        return str(said["choices"][0]["message"]["content"])


def test_no_way_to_the_nodes_and_everything_is_answered(whole: Whole, closed: None) -> None:
    scenario = Scenario(whole, tokens_per_s=40)
    # Cold: whole, streamed, and pulled by the pilot; then hot ones, more than there are spare links.
    scenario.ask(1)
    scenario.post(2)
    assert _whole_answer(whole, WORDS) == WORDS
    scenario.ask(12)
    scenario.answered(120)
    [(address,)] = whole.rows("SELECT address FROM fleet_pilot WHERE state = 'up'")
    assert address.startswith("reverse:")
    # A client that leaves: its seat is free again at once.
    link = http.client.HTTPConnection("127.0.0.1", whole.site.port, timeout=120)
    body = {"model": POOL, "stream": True, "messages": [{"role": "user", "content": f"{WORDS} " * 40}]}
    headers = {"Authorization": f"Bearer {whole.berth.token}", "Content-Type": "application/json"}
    link.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = link.getresponse()
    assert answer.readline().startswith(b"data: ")
    answer.close()
    link.close()
    cancelled = "SELECT count(*) FROM ledger_request WHERE state = 'cancelled'"
    assert wait_until(lambda: bool(whole.one(cancelled)), 30)
    # kill -9 of the web: what was accepted in the background is answered, and so is whoever comes afterwards.
    posted = [whole.post(f"{n} {WORDS}") for n in range(4)]
    whole.kill("web")
    whole.until(lambda: whole.site.get("/readyz") == 200, 60, "the web's return")
    whole.until(lambda: _whole_answer(whole, WORDS) == WORDS, 60, "an answer after the web's return")
    for number, request in enumerate(posted):
        whole.until(lambda r=request: whole.detail(r)["state"] == "done", 60, "the end of what was posted")  # type: ignore[misc]
        assert whole.text_of(request) == f"{number} {WORDS}"
    jobs = whole.one("SELECT count(*) FROM fleet_pilot WHERE state <> 'ended'")
    assert jobs == 1 and whole.failures() == 0, "the same job all along"
