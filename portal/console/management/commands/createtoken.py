"""A user, a project and a wish → a token, printed once."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.accounts.issue import DEFAULT_DAYS, MOST_DAYS, issue_token
from portal.accounts.models import ApiToken, Project, User


class Command(BaseCommand):
    help = "Create an API token and print it. It cannot be shown again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="username")
        parser.add_argument("project", help="slug of a project that the user belongs to")
        parser.add_argument("name", help="what the token is for, e.g. notebook")
        parser.add_argument(
            "--scopes", nargs="+", choices=ApiToken.Scope.values, default=[ApiToken.Scope.INFERENCE.value]
        )
        parser.add_argument("--days", type=int, default=DEFAULT_DAYS, help=f"1 to {MOST_DAYS}")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            user = User.objects.get(username=options["user"])
            project = Project.objects.get(slug=options["project"])
            _, minted = issue_token(user, project, options["name"], options["scopes"], options["days"])
        except User.DoesNotExist:
            raise CommandError(f"no user {options['user']!r}") from None
        except Project.DoesNotExist:
            raise CommandError(f"no project {options['project']!r}") from None
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        self.stdout.write(minted.text)
