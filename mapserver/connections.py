"""TCP connections that PostgreSQL has closed: whether any process of the machine, or a given process, still holds one.

The first question is asked twice a second, so it goes to the kernel's sock_diag interface, which returns only matching sockets.
/proc/net/tcp lists all of them: with some thousand connections of clients, reading it takes 10 ms.
"""

import re
import socket
import struct
from pathlib import Path

import psutil

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_CLOSE_WAIT = 8
_MESSAGE = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_QUERY = struct.Struct("=BBBxI")  # family, protocol, extensions, states
_PORTS = struct.Struct(">HH")  # local, remote
_REST_BYTES = 16 + 16 + 4 + 8  # addresses, interface, cookie
_REPLY_BYTES = 1 << 16


def is_any_disconnected(port: int) -> bool:
    """Whether any process of the machine has a connection to `port` that the peer closed. Cheaper than `is_disconnected`."""
    try:
        return any(_has_closed(family, port) for family in (socket.AF_INET, socket.AF_INET6))
    except OSError:
        # A kernel or container without sock_diag.
        return _is_any_listed(port)


def is_disconnected(pid: int, port: int) -> bool:
    """Whether the process has a TCP connection to `port` that the peer closed."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    closed = [connection.raddr for connection in connections if connection.status == psutil.CONN_CLOSE_WAIT]
    return any(address.port == port for address in closed)


def _has_closed(family: int, port: int) -> bool:
    """Raises OSError where the kernel does not answer."""
    query = _QUERY.pack(family, socket.IPPROTO_TCP, 0, 1 << _CLOSE_WAIT) + _PORTS.pack(0, port) + bytes(_REST_BYTES)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1)
        netlink.send(_MESSAGE.pack(_MESSAGE.size + len(query), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + query)
        # Only the first message matters: a socket, the end of the list, or an error.
        kind = _MESSAGE.unpack_from(netlink.recv(_REPLY_BYTES))[1]
    if kind == _NLMSG_ERROR:
        raise OSError("The kernel does not list TCP sockets.")
    return bool(kind != _NLMSG_DONE)


def _is_any_listed(port: int) -> bool:
    tables = [path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    row = re.compile(rf"^ *\d+: \S+ [0-9A-F]+:{port:04X} {_CLOSE_WAIT:02X} ", re.MULTILINE)
    return any(row.search(table.read_text()) for table in tables)
