"""Which hosts and origins the pages answer to, where nobody has said so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from portal.config import ConfigError, parse

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("url", "host", "origin"),
    [
        ("https://berth.example.org", "berth.example.org", "https://berth.example.org"),
        ("http://berth.example.org:8000/", "berth.example.org", "http://berth.example.org:8000"),
        ("http://10.0.0.5:8000", "10.0.0.5", "http://10.0.0.5:8000"),
        ("http://[fd00::5]:8000", "[fd00::5]", "http://[fd00::5]:8000"),
        ("https://berth.example.org/behind/a/path", "berth.example.org", "https://berth.example.org"),
    ],
)
def test_the_pages_answer_to_the_portals_own_address(url: str, host: str, origin: str) -> None:
    read = parse({"BERTH_PORTAL_URL": url})
    assert read.allowed_hosts == ("127.0.0.1", "localhost", host)
    assert read.origins == (origin,)


def test_what_is_set_is_all_there_is() -> None:
    read = parse(
        {
            "BERTH_PORTAL_URL": "http://10.0.0.5:8000",
            "BERTH_ALLOWED_HOSTS": "berth.example.org",
            "BERTH_TRUSTED_ORIGINS": "https://berth.example.org",
        }
    )
    assert (read.allowed_hosts, read.origins) == (("berth.example.org",), ("https://berth.example.org",))
    assert read.site == "https://berth.example.org"


def test_by_itself_it_answers_on_this_machine_only() -> None:
    assert parse({}).allowed_hosts == ("127.0.0.1", "localhost")


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="BERTH_PORTAL_URL"):
        parse({"BERTH_PORTAL_URL": "http://[fd00"})


def test_django_takes_both() -> None:
    program = (
        "from django.conf import settings; from django.http.request import validate_host; "
        "print(validate_host('berth.example.org', settings.ALLOWED_HOSTS), settings.CSRF_TRUSTED_ORIGINS)"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BERTH_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={
            **kept,
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "BERTH_PORTAL_URL": "https://berth.example.org",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "True ['https://berth.example.org']", done.stderr
