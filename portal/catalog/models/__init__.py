"""What can be served, where and with what: environments, profiles, pools and models.

Configuration only: people write it, the control loop reads it. What the loop knows and does is in
`portal.fleet`.
"""

from __future__ import annotations

from portal.catalog.models.access import Access
from portal.catalog.models.environments import Engine, Environment, ImageGpu
from portal.catalog.models.names import model_name
from portal.catalog.models.pools import Model, Pool, settle_bases
from portal.catalog.models.profiles import Profile

__all__ = [
    "Access", "Engine", "Environment", "ImageGpu", "Model", "Pool", "Profile", "model_name", "settle_bases",
]  # fmt: skip
