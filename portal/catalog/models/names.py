"""What names in the catalog may look like: they reach file names, job names, engine arguments and directives.

Checked here and again there.
"""

from __future__ import annotations

from django.core.validators import RegexValidator

model_name = RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}\Z", "Letters, digits and . _ / - only.")
directive = RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z", "Letters, digits and . _ + - only.")
