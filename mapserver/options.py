"""Checks of what the caller of `config.write_config` passes, before it becomes part of a configuration file."""

import os
import pwd
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path

from ls4_assets.errors import ConfigurationError

# nginx cannot escape a $ where variables are allowed.
_NGINX_PATH = re.compile(r"/[\w./@+~ -]*")
_HOST = re.compile(r"[A-Za-z0-9-]+(?:[.][A-Za-z0-9-]+)*")


def parse_networks(addresses: Sequence[str]) -> list[str]:
    """The addresses as networks. Raises ConfigurationError."""
    try:
        return [str(ip_network(address)) for address in addresses]
    except ValueError as error:
        raise ConfigurationError(f"{error}: write load balancers and staff as networks, such as 10.0.0.0/16.") from None


def parse_host(name: str) -> str:
    """The host name, without a port. Raises ConfigurationError for anything else."""
    if not _HOST.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not a host name: write it without scheme and port, such as maps.example.org.")
    return name


def require_nginx_path(path: Path) -> None:
    """Raise ConfigurationError for a path that nginx cannot use."""
    if not _NGINX_PATH.fullmatch(str(path)):
        raise ConfigurationError(
            f"nginx cannot use the path {path}: choose an absolute one of letters, digits, spaces and ._@+~-."
        )


def validate_gdal_options(options: Mapping[str, str]) -> dict[str, str]:
    """The options. Raises ConfigurationError for an invalid name."""
    for name in options:
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            raise ConfigurationError(f"{name!r} is not a GDAL option: use names such as AWS_REGION.")
    return dict(options)


def serving_account(user: str | None) -> pwd.struct_passwd | None:
    """The account to run as; None when this process is not root and cannot change its user."""
    if os.geteuid() != 0:
        return None
    name = user or "www-data"
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ConfigurationError(f"User {name} does not exist on this machine: name an existing one.") from None
