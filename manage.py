#!/usr/bin/env python
"""Django's command line."""

import getpass
import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    from django.core.management import execute_from_command_line

    from portal.audit.actor import acting

    with acting("command line", lambda: (None, f"{getpass.getuser()} at the command line")):
        execute_from_command_line(sys.argv)
