"""A TCP proxy between a program and its Redis, as a network that can be cut and healed."""

from __future__ import annotations

import socket
import socketserver
import threading

from tests.support.serving import free_port


class CuttableProxy:
    """A TCP proxy on a free port whose connections can be cut: bytes stop and connections end."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._is_cut = threading.Event()
        self._sockets: set[socket.socket] = set()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                if proxy._is_cut.is_set():
                    return
                with socket.create_connection(("127.0.0.1", target_port)) as upstream:
                    proxy._sockets |= {self.request, upstream}
                    back = threading.Thread(target=proxy._pump, args=(upstream, self.request), daemon=True)
                    back.start()
                    proxy._pump(self.request, upstream)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", self.port), Handler, bind_and_activate=False)
        self._server.allow_reuse_address = True
        self._server.daemon_threads = True
        self._server.server_bind()
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The Redis address through this proxy."""
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        """End everything."""
        self.cut()
        self._server.shutdown()
        self._server.server_close()

    def cut(self) -> None:
        """End every connection and take no more."""
        self._is_cut.set()
        for end in self._sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._sockets.clear()

    def heal(self) -> None:
        """Take connections again."""
        self._is_cut.clear()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
