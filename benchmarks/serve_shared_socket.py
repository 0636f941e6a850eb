"""MapServer workers that accept requests from one shared socket, as before the dispatcher: the contender of `serve_dispatcher`.

It takes the options of `python -m mapserver.workers`. Nothing is restarted here.
"""

import argparse
import os
import signal
import socket
import subprocess
from pathlib import Path

from mapserver.workers import ENVIRONMENT, drop_privileges

_BACKLOG = 512


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.serve_shared_socket")
    for name in ("--socket", "--config", "--mapfiles", "--mapserv"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--user")
    options, _ = parser.parse_known_args()
    if options.user and os.geteuid() == 0:
        drop_privileges(options.user)
    listener = socket.socket(socket.AF_UNIX)
    options.socket.unlink(missing_ok=True)
    listener.bind(str(options.socket))
    options.socket.chmod(0o660)
    listener.listen(_BACKLOG)
    argv = ["setpriv", "--pdeathsig", "KILL", str(options.mapserv), "-conf", str(options.config)]
    for _ in range(options.workers):
        subprocess.Popen(argv, stdin=listener.fileno(), cwd=options.mapfiles, env=ENVIRONMENT)
    # The kernel ends the workers with this process.
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
