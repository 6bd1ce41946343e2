"""Hold what an administrator sets: environment variables → one frozen, typed `Config`, with its mail and log-in."""

from portal.config.environment import config, on_loopback, parse
from portal.config.values import Config, ConfigError

__all__ = ["Config", "ConfigError", "config", "on_loopback", "parse"]
