"""TCP_NODELAY on every connection of the gateway and of Envoy, read from the sockets themselves.

`pidfd_getfd(2)` (Linux 5.6) gives a copy of another process's descriptor; a parent may take its child's.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chain import Chain
from chain_http2 import http2
from envoy_rig import until
from test_http2_resets import body_of

_PIDFD_GETFD = 438
_ESTABLISHED = "01"


def connections(pid: int) -> dict[str, int]:
    """The established TCP connections of a process: inode to local port."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _ESTABLISHED:
                found[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return found


@contextmanager
def copied(pid: int, descriptor: int) -> Iterator[socket.socket]:
    """A copy of a socket of another process."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.pidfd_open(pid)
    try:
        copy = libc.syscall(_PIDFD_GETFD, handle, descriptor, 0)
        assert copy >= 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(handle)
    with socket.socket(fileno=copy) as sock:
        yield sock


def delays(pid: int) -> dict[tuple[int, int], bool]:
    """Of each connection of a process, by its descriptor and local port: whether TCP_NODELAY is set."""
    found, open_ports = {}, connections(pid)
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            port = open_ports.get(target[8:-1])
            if port is not None:
                with copied(pid, int(link.name)) as sock:
                    found[int(link.name), port] = bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    return found


def test_every_connection_has_nodelay(chain: Chain) -> None:
    """While a stream runs, so that there is a connection at every place: client, decide, log, upstream, admin."""
    assert chain.envoy is not None
    gate = chain.small.gate("every connection")
    with (
        http2(chain.ports.listen) as client,
        socket.create_connection(("127.0.0.1", chain.ports.admin), timeout=20) as admin,
    ):
        body = body_of("every connection", stream=True)
        stream = client.request(len(body))
        client.data(stream, body, last=True)
        until(lambda: gate.arrived == 1, "the stream runs")
        admin.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert admin.recv(4096).startswith(b"HTTP/1.1 200")
        gateway, envoy = delays(chain.gateway.pid), delays(chain.envoy.pid)
        gate.open()
        assert client.answer(stream)[0] == 200
    assert {chain.ports.ext_proc, chain.ports.admin} <= {port for _, port in gateway}
    assert chain.ports.listen in {port for _, port in envoy}
    assert len(envoy) >= 3
    assert [place for place, is_set in gateway.items() if not is_set] == []
    assert [place for place, is_set in envoy.items() if not is_set] == []
