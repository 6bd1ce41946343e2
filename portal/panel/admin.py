"""Where Django looks for admin pages: here they are all, a module per room below."""

from portal.panel import accounts, audit, catalog, fleet, ledger, notices

__all__ = ["accounts", "audit", "catalog", "fleet", "ledger", "notices"]
