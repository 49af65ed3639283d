"""Tell whether HOST:PORT can be listened on and, if not, which program has it.

Usage: port_owner.py HOST PORT. Exit status 0: free; 1: taken, a line says by whom; 2: this machine cannot listen there,
a line says why. Knows the standard library only; reads /proc, and asks lsof where there is no /proc.
"""

import contextlib
import errno
import socket
import subprocess
import sys
from pathlib import Path

LISTENING = "0A"  # TCP state in /proc/net/tcp


def listening_inodes(port: int) -> set[str]:
    """Return the inodes of the sockets that listen on `port`, IPv4 and IPv6."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == LISTENING and int(columns[1].rsplit(":", 1)[1], 16) == port:
                    inodes.add(columns[9])
    return inodes


def listening_pids(port: int) -> list[int]:
    """Return the processes that listen on `port`, as far as this user may see them."""
    if not Path("/proc/net/tcp").exists():
        command = ["lsof", "-nP", "-t", f"-iTCP:{port}", "-sTCP:LISTEN"]
        try:
            return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True).stdout.split()]
        except OSError:
            return []
    sockets = {f"socket:[{inode}]" for inode in listening_inodes(port)}
    pids = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # the process ended, or belongs to somebody else
            if str(link.readlink()) in sockets:
                pids.add(int(link.parts[2]))
    return sorted(pids)


def describe_process(pid: int) -> str:
    """Return "pid N (its command line)", the command line cut to 120 characters."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        command = ["ps", "-p", str(pid), "-o", "command="]
        words = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return f"pid {pid} ({words[:120]})"


def refusal(host: str, port: int) -> OSError | None:
    """Return why this machine cannot listen on `host`:`port`, or None if it can."""
    # As the server does: localhost is both loopback addresses, but a machine without IPv6 has one of them only.
    addresses = ("127.0.0.1", "::1") if host == "localhost" else (host,)
    for number, name in enumerate(addresses):
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: TIME_WAIT is no owner
                probe.bind(address)
                probe.listen(1)
        except UnicodeError:  # a label of more than 63 letters
            return OSError(errno.EINVAL, "that is no host name")
        except OSError as problem:
            if number == 0 or problem.errno == errno.EADDRINUSE:
                return problem
    return None


def main() -> int:
    """Print one line unless the port is free, and return the exit status."""
    host, port = sys.argv[1], int(sys.argv[2])
    problem = refusal(host, port)
    if problem is None:
        return 0
    if problem.errno != errno.EADDRINUSE:
        print(f"{host}:{port} cannot be listened on here: {problem.strerror or problem}")
        return 2
    owners = [describe_process(pid) for pid in listening_pids(port)]
    print(f"Port {port} is taken by {', '.join(owners) or 'a program of another user'}.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
