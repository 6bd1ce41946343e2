"""`manage.py catalog apply FILE | export [FILE]`: the catalog as one YAML file, beside the admin's forms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.catalog_file.changes import Change, apply
from portal.catalog_file.export import export
from portal.catalog_file.tree import BadFile, read

MARKS = {"added": "+", "changed": "~", "deleted": "-", "kept": "!"}


class Command(BaseCommand):
    help = "Apply the catalog (projects, environments, profiles, pools, models, quotas) from a file, or export it."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        put = verbs.add_parser("apply", help="apply the file to the catalog; show what changes")
        put.add_argument("file", metavar="FILE", help="a YAML file; - reads standard input")
        put.add_argument("--dry-run", action="store_true", help="only show what would change")
        put.add_argument(
            "--prune",
            action="store_true",
            help="delete unused rows that the file's sections do not name",
        )
        out = verbs.add_parser("export", help="write the catalog as such a file")
        out.add_argument(
            "file", metavar="FILE", nargs="?", default="-", help="default, or -: standard output"
        )

    def handle(self, *args: Any, verb: str, file: str, **options: Any) -> None:
        if verb == "export":
            self._export(file)
        else:
            self._apply(file, options["prune"], options["dry_run"])

    def _export(self, file: str) -> None:
        text = export()
        if file == "-":
            self.stdout.write(text, ending="")
            return
        try:
            Path(file).write_text(text)
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}") from None

    def _apply(self, file: str, prune: bool, dry_run: bool) -> None:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text()
            changes = apply(read(text), prune=prune, dry_run=dry_run)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{file}: {error}") from None
        except BadFile as error:
            lines = "\n".join(f"  {wrong}" for wrong in error.wrongs)
            raise CommandError(f"{file} has errors; nothing was applied:\n{lines}") from None
        for change in changes:
            self._say(change)
        counts = {kind: sum(change.kind == kind for change in changes) for kind in (*MARKS, "unchanged")}
        told = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number) or "empty"
        self.stdout.write(f"Dry run, nothing was changed: {told}." if dry_run else f"Applied: {told}.")

    def _say(self, change: Change) -> None:
        if change.kind == "unchanged":
            return
        why = f" stays: {change.why}" if change.why else ""
        self.stdout.write(f"{MARKS[change.kind]} {change.word} {change.name}{why}")
        for name, (old, new) in change.fields.items():
            was = f"{_shown(old)} → " if change.kind == "changed" else ""
            self.stdout.write(f"    {name}: {was}{_shown(new)}")
        if change.doubts:
            self.stdout.write(f"    warning: {change.doubts}")


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "(empty)"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
