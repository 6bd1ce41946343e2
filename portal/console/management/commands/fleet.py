"""`manage.py fleet …`: what the fleet does and why, and the commands that operators give it.

Writes command rows as pages and API do; the control loop carries them out. With --wait it shows what came of them.
"""

from __future__ import annotations

import getpass
import shutil
import time
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from portal.config import config
from portal.console import fleet_views as views
from portal.fleet.models import Cluster
from portal.fleet.models import Command as Row
from portal.fleet.times import seconds_of
from portal.services import decision_search, targets
from portal.services.cluster_state import cluster_health
from portal.services.commands import NewCommand, give

LOOK_S = 0.5
WAIT_S = 600.0

Verb = tuple[str, str]
MODEL, PILOT = "MODEL", "PILOT"
# Verb → what it takes, and what it does.
VERBS: dict[str, Verb] = {
    "drain": (PILOT, "drain a pilot, or a replica by its id: finish running requests, then end it"),
    "cancel": (PILOT, "cancel a pilot's job at once; its running requests go back to the queue"),
    "log": (PILOT, "fetch the end of a pilot's log"),
    "wake": (MODEL, "load a model, so that it is ready"),
    "pin": (MODEL, "keep a model resident"),
    "unpin": (MODEL, "end a pin"),
    "evict": (MODEL, "drain every replica of a model"),
    "test-launch": (MODEL, "launch a model once, to check that it works, even if it is latched or paused"),
}


class Command(BaseCommand):
    help = "Show the fleet, explain it, and give it commands."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        verbs.add_parser("status", help="clusters, models and pilots")
        why = verbs.add_parser("why", help="why a model or a request does not run yet, and when it will")
        why.add_argument("what", metavar="MODEL|REQUEST")
        decided = verbs.add_parser("decisions", help="the decisions of the control loop, with reasons")
        for name, text in decision_search.FILTERS.items():
            decided.add_argument(f"--{name}", default="", help=text)
        decided.add_argument(
            "--last", type=int, default=30, metavar="N", help="number of decisions (default: 30)"
        )
        for name, (metavar, text) in VERBS.items():
            verb = verbs.add_parser(name, help=text)
            verb.add_argument("target", metavar=metavar)
            if name in ("wake", "pin"):
                usual = "no end" if name == "pin" else "its keep-alive"
                verb.add_argument(
                    "--for",
                    dest="for_s",
                    type=_length,
                    metavar="TIME",
                    help=f"such as 30min, 2h, 1d (default: {usual})",
                )
            _waits(verb)
        for name, text in (("pause", "launch nothing"), ("resume", "end a pause")):
            verb = verbs.add_parser(name, help=f"{text}, for one model or the whole fleet")
            verb.add_argument("target", metavar=MODEL, nargs="?", help="default: the whole fleet")
            verb.add_argument("--cluster", help="one cluster instead of the whole fleet")
            _waits(verb)
        relaunch = verbs.add_parser(
            "relaunch", help="clear a model's failure latch, or release a held profile"
        )
        relaunch.add_argument("target", metavar=MODEL, nargs="?")
        relaunch.add_argument("--profile")
        _waits(relaunch)
        for name, text in (("adopt", "adopt an unknown job as a pilot"), ("reject", "cancel an unknown job")):
            verb = verbs.add_parser(name, help=text)
            verb.add_argument("job", metavar="JOB")
            verb.add_argument("--cluster", help="the cluster, if several have such a job")
            if name == "adopt":
                verb.add_argument(
                    "--profile", help="the profile of the job, if its partition does not determine it"
                )
            _waits(verb)

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        width = shutil.get_terminal_size((110, 24)).columns
        try:
            match verb:
                case "status":
                    for line in views.status(width):
                        self.stdout.write(line)
                case "why":
                    for line in views.why(options["what"]):
                        self.stdout.write(line)
                case "decisions":
                    asked = {name: options[name] for name in decision_search.FILTERS}
                    rows = decision_search.decisions(asked, timezone.now())[: max(1, options["last"])]
                    self.stdout.write(views.decided(list(rows), width))
                case _:
                    self._give(_wish(verb, options), options["wait"])
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None

    def _give(self, wish: NewCommand, wait_s: float | None) -> None:
        command = give(wish, f"{getpass.getuser()} at the command line")
        # One loop serves all clusters.
        cluster = Cluster.objects.filter(name=config().cluster).first() or Cluster.objects.first()
        if cluster is not None and not (said := cluster_health(cluster, timezone.now())).loop_runs:
            self.stderr.write(said.loop)
        if wait_s is None:
            self.stdout.write(
                f"Command {command.pk} ({command.kind}) is queued; the control loop carries it out at its next tick. "
                "Use --wait to see its result."
            )
            return
        ended = watch(command, wait_s, self.stdout.write)
        if ended.state == Row.State.PENDING:
            raise CommandError(
                f"Command {ended.pk} has not ended yet and continues in the background. `fleet status` shows the fleet."
            )
        if ended.state != Row.State.DONE:
            raise CommandError(f"{ended.state}: {ended.result}")
        self.stdout.write(ended.result)


def watch(command: Row, wait_s: float, say: Callable[[str], object]) -> Row:
    """Return the command when it has ended, or as it stands after `wait_s`. Each new text of what it waits for is
    printed."""
    until, said = time.monotonic() + wait_s, ""
    while True:
        command.refresh_from_db()
        if command.state != Row.State.PENDING or time.monotonic() >= until:
            return command
        if command.result != said:
            said = command.result
            say(f"… {said}")
        time.sleep(LOOK_S)


def _waits(parser: Any) -> None:
    parser.add_argument(
        "--wait", type=_length, nargs="?", const=WAIT_S, default=None, metavar="TIME",
        help="wait for the result, at most this long (10min)",
    )  # fmt: skip


def _wish(verb: str, options: dict[str, Any]) -> NewCommand:
    """Return the command that the arguments ask for. Raise ValidationError where they make no sense."""
    kind, word = verb.replace("-", "_"), options.get("target")
    args: dict[str, Any] = {}
    if options.get("for_s") is not None:
        args["for_s"] = options["for_s"]
    if options.get("profile"):
        args["profile"] = options["profile"]
    if options.get("cluster"):
        args["cluster"] = options["cluster"]
    if options.get("job"):
        args["job_id"] = options["job"]
    if word is None:
        return NewCommand(kind, args=args)
    if VERBS.get(verb, (MODEL, ""))[0] == MODEL:
        return NewCommand(kind, pool=targets.pool(word), args=args)
    if verb == "drain" and (replica := targets.known_replica(word)) is not None:
        return NewCommand(kind, replica=replica)
    return NewCommand(kind, pilot=targets.pilot(word))


def _length(text: str) -> float:
    try:
        return seconds_of(text)
    except ValueError:
        raise ArgumentTypeError(f"'{text}' is not a duration: write 30min, 2h or 1d") from None
