"""Hold what an administrator sets: environment variables → one frozen, typed `Config`, with its mail and log-in."""

from portal.config.environment import Config, ConfigError, config, on_loopback, parse

__all__ = ["Config", "ConfigError", "config", "on_loopback", "parse"]
