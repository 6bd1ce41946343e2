"""The slurmrestd client: what it asks, which answers are answers, whose jobs it lists, and when it believes nothing."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected
from scheduler.slurm.render import BadDirective, render
from scheduler.slurm.rest import RestClient
from scheduler.slurm.way import Way
from tests.secret_file import put_secret
from tests.unit.restd import Restd, fine, job, jwt, number, refused, restd, unset
from tests.unit.test_slurm_render import SPEC

V = "/slurm/v0.0.42"


@pytest.fixture
def server() -> Iterator[Restd]:
    with restd() as found:
        found.serve()
        yield found


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    put_secret(path, jwt(sun="berth", iat=time.time() - 10, exp=time.time() + 3600) + "\n")
    return path


@pytest.fixture
def client(server: Restd, token: Path) -> RestClient:
    return RestClient(Way(kind="rest", address=server.url, token_file=str(token)), limit_s=5)


def test_a_job_is_submitted_with_the_fields_that_sbatch_reads_from_the_script(
    server: Restd, client: RestClient
) -> None:
    server.answers[f"POST {V}/job/submit"] = fine(job_id=77, step_id="batch", job_submit_user_msg="")
    assert client.submit(render(SPEC), SPEC) == 77
    sent = server.asked[-1]
    assert sent.headers["X-SLURM-USER-NAME"] == "berth"
    assert sent.headers["X-SLURM-USER-TOKEN"].count(".") == 2
    assert sent.body["script"] == render(SPEC)
    asked = sent.body["job"]
    for name, value in {
        "name": SPEC.name,
        "partition": "gpu",
        "account": "lab",
        "qos": "normal",
        "tres_per_node": "gres/gpu:a100:4",
        "requeue": False,
        "current_working_directory": "/",
        "kill_warning_signal": "USR2",
        "kill_warning_flags": ["BATCH_JOB"],
        "cpus_per_task": 4,
    }.items():
        assert asked[name] == value
    assert asked["time_limit"]["number"] == 240
    assert asked["time_minimum"]["number"] == 30


def test_the_secret_rides_in_the_jobs_environment_and_nowhere_else(server: Restd, client: RestClient) -> None:
    server.answers[f"POST {V}/job/submit"] = fine(job_id=77)
    client.submit(render(SPEC), SPEC)
    sent = server.asked[-1].body
    assert f"BERTH_SECRET={SPEC.secret.text}" in sent["job"].pop("environment")
    assert "hidden" not in json.dumps(sent)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refused(2000, "Invalid partition name specified"), Rejected),
        (refused(2000, "Invalid partition name specified", 422), Rejected),
        (refused(2015, "Requested partition configuration not available now", 200), Rejected),
        (refused(2199, "a number of a later release"), Rejected),
        (refused(9202, "Unable to convert Data type"), Rejected),
        (refused(-1, "Unspecified error"), Rejected),
        (refused(1800, "Unable to contact slurm controller (connect failure)"), NoAnswer),
        (refused(5004, "Socket timed out on send/recv operation"), NoAnswer),
        (refused(7000, "Unable to connect to database"), NoAnswer),
        (refused(2027, "Slurm backup controller in standby mode"), NoAnswer),
        (refused(1007, "Protocol authentication error", 511), NoAnswer),
        (refused(0, "no number at all"), NoAnswer),
        ((500, {"errors": []}), NoAnswer),
        ((200, {"job_id": 7}), NoAnswer),
        ((200, b"<html>Bad gateway</html>"), NoAnswer),
        ((502, b"<html>Bad gateway</html>"), NoAnswer),
        ((302, b""), NoAnswer),
        ((200, b"[]"), NoAnswer),
        (fine(job_id=0), NoAnswer),
        (fine(), NoAnswer),
    ],
)
def test_only_what_slurm_refused_is_a_refusal(
    server: Restd, client: RestClient, answer: tuple[int, Any], error: type[Exception]
) -> None:
    server.answers[f"POST {V}/job/submit"] = answer
    with pytest.raises(error):
        client.submit(render(SPEC), SPEC)


def test_a_refusal_carries_slurms_words_and_the_sites(server: Restd, client: RestClient) -> None:
    status, said = refused(2066, "Invalid qos specification")
    server.answers[f"POST {V}/job/submit"] = (status, {**said, "job_submit_user_msg": "ask the help desk"})
    with pytest.raises(Rejected) as caught:
        client.submit(render(SPEC), SPEC)
    assert caught.value.reason == "Invalid qos specification (ask the help desk)"


def test_a_value_that_may_not_stand_in_a_job_is_never_sent(server: Restd, client: RestClient) -> None:
    with pytest.raises(BadDirective):
        client.submit("", replace(SPEC, partition="gpu; id"))
    assert server.asked == []


def test_the_listing_holds_our_jobs_by_name_the_lower_id_first(server: Restd, client: RestClient) -> None:
    rows = [
        job(
            9,
            "berth-x-1",
            "RUNNING",
            nodes="gpu[01-02]",
            node_count=number(2),
            start_time=number(1_795_222_805),
            end_time=number(1_795_223_105),
        ),
        job(7, "berth-x-1", "PENDING", state_reason="Priority"),
        job(8, "berth-x-2", "PENDING", state_description="Nodes required for job are DOWN, DRAINED"),
        job(10, "berth-x-3", "CANCELLED", "COMPLETING"),
        job(11, "berth-x-1", "RUNNING", user="mallory"),
        job(12, "someone", "RUNNING", user=""),
        job(13, "array", "PENDING", submit_time=unset()),
    ]
    server.answers[f"GET {V}/jobs/"] = fine(jobs=rows, last_update=number(1))
    found = client.jobs()
    assert [info.job_id for info in found["berth-x-1"]] == [7, 9]
    assert (found["berth-x-1"][0].reason, found["berth-x-1"][0].started_at) == ("Priority", None)
    running = found["berth-x-1"][1]
    assert (running.state, running.nodes, running.node_count) == ("RUNNING", "gpu[01-02]", 2)
    assert found["berth-x-1"][0].node_count is None, "not told"
    assert (running.submitted_at, running.started_at, running.ends_at) == (1795222800, 1795222805, 1795223105)
    assert found["berth-x-2"][0].reason == "Nodes required for job are DOWN, DRAINED"
    assert found["berth-x-3"][0].state == "COMPLETING"
    assert found["array"][0].submitted_at is None
    assert "someone" not in found


def test_a_job_that_may_be_ours_and_names_no_user_is_no_answer(server: Restd, client: RestClient) -> None:
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[job(7, "berth-x-1", user="")], last_update=number(5))
    with pytest.raises(NoAnswer, match="does not name the user of job 7"):
        client.jobs()


def test_no_jobs_is_an_answer_and_a_list_that_is_missing_is_none(server: Restd, client: RestClient) -> None:
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[], last_update=number(5))
    assert client.jobs() == {}
    answers: list[dict[str, Any]] = [
        {},
        {"jobs": {}},
        {"jobs": [1]},
        {"jobs": [{"user_name": "berth"}]},
        {"jobs": None},
    ]
    for broken in answers:
        server.answers[f"GET {V}/jobs/"] = fine(**broken, last_update=number(6))
        with pytest.raises(NoAnswer):
            client.jobs()


def test_nothing_has_changed_means_the_same_jobs_and_an_empty_cluster_means_none(
    server: Restd, client: RestClient
) -> None:
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[job(7, "berth-x-1")], last_update=number(1000))
    first = client.jobs()
    # What slurmrestd says where slurmctld says SLURM_NO_CHANGE_IN_DATA.
    server.answers[f"GET {V}/jobs/"] = fine(
        jobs=[], last_update=unset(), warnings=[{"description": "No job changes since"}]
    )
    assert client.jobs() == first
    assert "update_time=uts1000" in server.asked[-1].query
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[], last_update=number(1001))
    assert client.jobs() == {}


def test_after_a_minute_the_whole_listing_is_asked_for_again(
    server: Restd, client: RestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[job(7, "berth-x-1")], last_update=number(1000))
    client.jobs()
    later = time.monotonic() + 61
    monkeypatch.setattr("scheduler.slurm.rest.time.monotonic", lambda: later)
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[], last_update=number(1000))
    assert client.jobs() == {}
    assert "update_time" not in server.asked[-1].query


def test_an_empty_listing_that_bears_no_time_is_not_believed(server: Restd, client: RestClient) -> None:
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[], last_update=unset())
    with pytest.raises(NoAnswer, match="does not say of when"):
        client.jobs()
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[job(7, "berth-x-1")], last_update=number(1000))
    client.jobs()
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[], last_update=unset(), warnings=[{"description": "hm"}])
    with pytest.raises(NoAnswer):
        client.jobs()


def test_a_server_that_does_not_take_a_time_is_asked_for_everything(
    server: Restd, client: RestClient
) -> None:
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[job(7, "berth-x-1")], last_update=number(1000))
    client.jobs()
    server.answers[f"GET {V}/jobs/?update"] = refused(9202, "Unable to convert Data type", 422)
    assert len(client.jobs()) == 1
    assert ["update_time" in one.query for one in server.asked[-2:]] == [True, False]


def test_a_listing_that_is_refused_is_no_answer(server: Restd, client: RestClient) -> None:
    server.answers[f"GET {V}/jobs/"] = refused(2002, "Access/permission denied")
    with pytest.raises(NoAnswer, match="Access/permission denied"):
        client.jobs()


def test_an_answer_that_is_too_large_is_not_read(server: Restd, token: Path) -> None:
    way = Way(kind="rest", address=server.url, token_file=str(token))
    server.answers[f"GET {V}/jobs/"] = fine(
        jobs=[job(n, "x" * 100) for n in range(100)], last_update=number(5)
    )
    with pytest.raises(NoAnswer, match="larger than"):
        RestClient(way, limit_s=5, max_bytes=10_000).jobs()


def test_a_server_that_speaks_a_byte_at_a_time_holds_nobody_beyond_the_limit(
    server: Restd, token: Path
) -> None:
    server.drip = True
    client = RestClient(Way(kind="rest", address=server.url, token_file=str(token)), limit_s=0.5)
    before = time.monotonic()
    with pytest.raises(NoAnswer, match=r"no answer within 0\.5 s"):
        client.jobs()
    assert time.monotonic() - before < 30


def test_a_server_that_is_gone_is_no_answer(token: Path) -> None:
    with restd() as closed:
        url = closed.url
    client = RestClient(Way(kind="rest", address=url, token_file=str(token)), limit_s=5)
    with pytest.raises(NoAnswer, match="refused"):
        client.jobs()


@pytest.mark.parametrize("address", ["", "slurm:6820", "ftp://slurm", "http://", "http://slurm:port"])
def test_an_address_that_is_none_is_no_answer(token: Path, address: str) -> None:
    with pytest.raises(NoAnswer, match="neither an http"):
        RestClient(Way(kind="rest", address=address, token_file=str(token)), limit_s=5).jobs()


def test_a_unix_socket_will_do(tmp_path: Path, token: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=answer_twice, args=(listening,))
        thread.start()
        for address in (f"unix:{path}", f"unix://{path}"):
            client = RestClient(Way(kind="rest", address=address, token_file=str(token)), limit_s=5)
            with pytest.raises(NoAnswer, match="it serves none"):
                client.jobs()
        thread.join()


def answer_twice(listening: socket.socket) -> None:
    for _ in range(2):
        link, _ = listening.accept()
        with link:
            assert link.recv(65536).startswith(b"GET /openapi/v3 HTTP/1.1\r\n")
            link.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"paths":{}}')


def test_cancelling_is_judged_by_what_became_of_the_job(server: Restd, client: RestClient) -> None:
    def status(code: int, words: str) -> tuple[int, Any]:
        error = {"code": code, "message": words, "string": words}
        return fine(status=[{"job_id": number(7), "step_id": "7", "error": error}])

    for job_id in (7, 8):
        server.answers[f"GET {V}/job/{job_id}"] = fine(jobs=[job(job_id, "berth-x-1", "RUNNING")])
    for answer in (
        fine(status=[]),
        status(0, "No error"),
        status(2021, "Job/step already completing or completed"),
        status(2017, "Invalid job id specified"),
        refused(2017, "Invalid job id specified", 404),
        refused(2021, "Job/step already completing or completed"),
    ):
        server.answers[f"DELETE {V}/jobs/"] = answer
        client.cancel([7, 8])
        assert server.asked[-1].body == {"jobs": ["7", "8"]}
    for answer, error in (
        (status(2002, "Access/permission denied"), Rejected),
        (refused(2010, "Invalid user id", 200), Rejected),
        (refused(2020, "Job can not be altered now, try again later"), NoAnswer),
        (status(1802, "Unable to contact slurm controller (receive failure)"), NoAnswer),
        (refused(1, "Operation not permitted"), NoAnswer),
        (refused(-1, "Unspecified error"), NoAnswer),  # also what it says where no controller is
        (fine(), NoAnswer),
    ):
        server.answers[f"DELETE {V}/jobs/"] = answer
        with pytest.raises(error):
            client.cancel([7])
    server.answers[f"GET {V}/job/7"] = refused(-1, "Unspecified error")
    with pytest.raises(NoAnswer):
        client.cancel([7])
    asked = len(server.asked)
    client.cancel([])
    assert len(server.asked) == asked


def test_a_server_that_cancels_no_list_is_told_job_by_job(server: Restd, client: RestClient) -> None:
    _, document = server.answers["GET /openapi/v3"]
    assert isinstance(document, dict)
    document["paths"][f"{V}/jobs/"].pop("delete")
    for job_id in (7, 8):
        server.answers[f"GET {V}/job/{job_id}"] = fine(jobs=[job(job_id, "berth-x-1", "RUNNING")])
    server.answers[f"DELETE {V}/job/7"] = fine()
    server.answers[f"DELETE {V}/job/8"] = refused(1, "Operation not permitted")
    client.cancel([7])
    with pytest.raises(NoAnswer, match="Operation not permitted"):
        client.cancel([7, 8])


def test_a_number_that_is_a_strangers_by_now_is_left_alone(server: Restd, client: RestClient) -> None:
    server.answers[f"GET {V}/job/7"] = fine(jobs=[job(7, "else", "RUNNING", user="mallory")])
    server.answers[f"GET {V}/job/8"] = refused(2017, "Invalid job id specified", 404)
    server.answers[f"GET {V}/job/9"] = fine(jobs=[job(9, "berth-x-1", "RUNNING")])
    server.answers[f"DELETE {V}/jobs/"] = fine(status=[])
    with pytest.raises(Rejected, match="job 7: it is mallory's"):
        client.cancel([7, 8])
    assert not [one for one in server.asked if one.method == "DELETE"]
    with pytest.raises(Rejected, match="job 7"):
        client.cancel([7, 8, 9])
    assert server.asked[-1].body == {"jobs": ["9"]}
    server.answers[f"GET {V}/job/6"] = refused(2002, "Access/permission denied")
    with pytest.raises(Rejected, match="job 6: Access/permission denied"):
        client.cancel([6, 9])
    assert server.asked[-1].body == {"jobs": ["9"]}


def test_of_a_list_that_is_refused_as_a_whole_each_job_is_asked_for(
    server: Restd, client: RestClient
) -> None:
    for job_id in (7, 8):
        server.answers[f"GET {V}/job/{job_id}"] = fine(jobs=[job(job_id, "berth-x-1", "RUNNING")])
    server.answers[f"DELETE {V}/jobs/"] = refused(2002, "Access/permission denied")
    with pytest.raises(Rejected, match="denied"):
        client.cancel([7, 8])
    bodies = [one.body for one in server.asked if one.method == "DELETE"]
    assert bodies == [{"jobs": ["7", "8"]}, {"jobs": ["7"]}, {"jobs": ["8"]}]


def test_partitions_are_gathered_from_their_nodes(server: Restd, client: RestClient) -> None:
    def node(name: str, gres: str, *state: str) -> dict[str, Any]:
        parts = {"partitions": ["gpu"], "cpus": 8, "real_memory": 16000, "features": ["a100", "ib"]}
        return {"name": name, "gres": gres, "state": list(state), **parts}

    rows = [
        {"name": "gpu", "partition": {"state": ["UP"]}, "maximums": {"time": number(240)}},
        {
            "name": "long",
            "partition": {"state": ["DOWN"]},
            "maximums": {"time": {"set": True, "infinite": True, "number": 0}},
        },
    ]
    server.answers[f"GET {V}/partitions/"] = fine(partitions=rows)
    server.answers[f"GET {V}/nodes/"] = fine(
        nodes=[
            node("gpu01", "gpu:a100:4", "IDLE"),
            node("gpu02", "gpu:a100:4", "IDLE"),
            node("gpu03", "", "DOWN", "NOT_RESPONDING"),
            node("gpu04", "gpu:a100:4", "MIXED", "DRAIN"),
        ]
    )
    found = client.partitions()
    assert (found["gpu"].up, found["gpu"].limit_min) == (True, 240)
    assert [(g.count, g.state, g.gres) for g in found["gpu"].groups] == [
        (1, "down*", ""),
        (1, "draining", "gpu:a100:4"),
        (2, "idle", "gpu:a100:4"),
    ]
    assert {g.features for g in found["gpu"].groups} == {("a100", "ib")}
    assert (found["long"].up, found["long"].limit_min, found["long"].groups) == (False, None, ())
    # A server whose controller is away says 500 with an empty list of errors here.
    server.answers[f"GET {V}/partitions/"] = (500, {"partitions": [], "errors": []})
    with pytest.raises(NoAnswer):
        client.partitions()


def test_reservations(server: Restd, client: RestClient) -> None:
    row = {
        "name": "work", "start_time": number(1000), "end_time": number(4600), "node_list": "gpu[01-02]",
        "partition": "", "flags": ["MAINT", "ALL_NODES"], "node_count": 2,
    }  # fmt: skip
    server.answers[f"GET {V}/reservations/"] = fine(reservations=[row])
    work = client.reservations()["work"]
    assert (work.starts_at, work.ends_at, work.flags, work.node_count) == (1000, 4600, "MAINT,ALL_NODES", 2)


def test_accounting_is_asked_where_it_is_served_and_not_offered_where_it_is_not(
    server: Restd, client: RestClient, token: Path
) -> None:
    for ask in (lambda: client.usage([7]), client.accounts, lambda: client.estimate_start(SPEC)):
        with pytest.raises(NotOffered):
            ask()
    server.serve(accounting=True)
    row = {
        "job_id": 7, "state": {"current": ["TIMEOUT"]}, "time": {"elapsed": 61}, "nodes": "gpu01",
        "exit_code": {"return_code": number(0), "signal": {"id": number(15)}},
    }  # fmt: skip
    server.answers["GET /slurmdb/v0.0.42/job/7"] = fine(jobs=[row, {"job_id": 8, "state": None}])
    server.answers["GET /slurmdb/v0.0.42/job/9"] = refused(9003, "Nothing found with query", 200)
    server.answers["GET /slurmdb/v0.0.42/associations/"] = fine(
        associations=[{"account": "lab", "qos": ["normal", "long"]}, {"account": "lab", "qos": ["quick"]}]
    )
    asking = RestClient(Way(kind="rest", address=server.url, token_file=str(token)), limit_s=5)
    used = asking.usage([7, 9])
    assert list(used) == [7]
    assert (used[7].state, used[7].exit_code, used[7].elapsed_s, used[7].nodes) == (
        "TIMEOUT",
        "0:15",
        61,
        "gpu01",
    )
    assert asking.accounts() == {"lab": ["long", "normal", "quick"]}
    server.answers["GET /slurmdb/v0.0.42/job/7"] = refused(7000, "Unable to connect to database")
    with pytest.raises(NoAnswer):
        asking.usage([7])


def test_a_log_is_read_where_the_portal_sees_it_and_else_not_offered(
    client: RestClient, tmp_path: Path
) -> None:
    (tmp_path / "job.out").write_text("first\nlast words\n")
    assert client.log_tail(str(tmp_path / "job.out"), 11) == "last words\n"
    with pytest.raises(NotOffered):
        client.log_tail("/nowhere/job.out", 100)
    with pytest.raises(NotOffered):
        client.forget("/nowhere/secret.json")


@pytest.mark.parametrize(
    ("served", "spoken"),
    [
        (("v0.0.40", "v0.0.41", "v0.0.42"), "v0.0.42"),
        (("v0.0.42", "v0.0.43", "v0.0.44", "v0.0.45"), "v0.0.42"),
        (("v0.0.38", "v0.0.39", "v0.0.40"), "v0.0.40"),
    ],
)
def test_the_higher_version_that_both_speak_is_chosen_once(
    server: Restd, client: RestClient, served: tuple[str, ...], spoken: str
) -> None:
    server.serve(served)
    server.answers[f"GET /slurm/{spoken}/jobs/"] = fine(jobs=[], last_update=number(5))
    client.jobs()
    client.jobs()
    assert server.paths() == ["GET /openapi/v3", *[f"GET /slurm/{spoken}/jobs/"] * 2]


def test_a_server_that_speaks_neither_is_no_answer_and_says_what_to_do(
    server: Restd, client: RestClient
) -> None:
    server.serve(("v0.0.36", "v0.0.37", "v0.0.38"))
    with pytest.raises(NoAnswer, match=r"v0\.0\.36.*Slurm's commands"):
        client.jobs()


def test_a_server_that_was_replaced_is_asked_anew_what_it_speaks(server: Restd, client: RestClient) -> None:
    server.answers[f"GET {V}/jobs/"] = fine(jobs=[], last_update=number(5))
    client.jobs()
    server.serve(("v0.0.40",))
    server.answers["GET /slurm/v0.0.40/jobs/"] = fine(jobs=[], last_update=number(5))
    del server.answers[f"GET {V}/jobs/"]
    assert client.jobs() == {}
    assert server.paths()[-1] == "GET /slurm/v0.0.40/jobs/"


def test_no_question_is_asked_twice_after_silence(server: Restd, client: RestClient) -> None:
    server.answers[f"POST {V}/job/submit"] = refused(5004, "Socket timed out on send/recv operation")
    with pytest.raises(NoAnswer):
        client.submit(render(SPEC), SPEC)
    assert server.paths().count(f"POST {V}/job/submit") == 1


def test_an_address_that_cannot_be_read_is_no_answer_and_has_words(token: Path) -> None:
    way = Way(kind="rest", address="http://[slurm]:6820", token_file=str(token))
    assert way.said == "Slurm (main, at http://[slurm]:6820)"
    with pytest.raises(NoAnswer, match="neither an http"):
        RestClient(way, limit_s=5).jobs()


def test_a_submission_with_all_its_questions_ends_at_one_limit(server: Restd, tmp_path: Path) -> None:
    """A token's command, the choice of a version and the submission together: who left it alone believes that it has
    ended then."""
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\nsleep 0.8\necho {jwt(sun='berth')}\n")
    slow.chmod(0o700)
    server.tokens = {"another"}  # so that the token is renewed, too
    client = RestClient(Way(kind="rest", address=server.url, token_command=(str(slow),)), limit_s=1)
    server.answers[f"POST {V}/job/submit"] = fine(job_id=77)
    with pytest.raises(NoAnswer, match=r"within|not asked any more"):
        client.submit(render(SPEC), SPEC)
    assert f"POST {V}/job/submit" not in server.paths()


def test_what_took_its_time_before_there_was_a_connection_is_not_sent_any_more(
    server: Restd, client: RestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers[f"POST {V}/job/submit"] = fine(job_id=77)
    slow = RestClient(client._way, limit_s=0.3)
    slow._version = "v0.0.42"
    real = socket.getaddrinfo

    def looked_up_slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.6)
        return real(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up_slowly)
    with pytest.raises(NoAnswer, match=r"no answer within 0\.3 s"):
        slow.submit(render(SPEC), SPEC)
    assert f"POST {V}/job/submit" not in server.paths()
