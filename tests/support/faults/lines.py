"""A TCP proxy whose lines can be cut, cut in the middle of a TLS handshake, and slowed."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

from tests.support.machines import free_port

OPEN, CUT, HANDSHAKE, SLOW = "open", "cut", "handshake", "slow"
_PIECE = 1 << 14


class Line:
    """What an institution's SuperNode connects to, in place of the coordinator's own address."""

    def __init__(self, port: int) -> None:
        """Listen at a free port and forward to `port`, both on loopback."""
        self.to, self.port = port, free_port()
        self.mode, self.bytes_a_second, self.handshake_bytes = OPEN, 20_000, 300
        self.cuts = 0
        self._ends: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def set(self, mode: str) -> None:
        """Change what the line does; what is open is cut, but for a line that only gets slow."""
        self.mode = mode
        if mode in (CUT, HANDSHAKE):
            for end in list(self._ends):
                self._reset(end)

    def close(self) -> None:
        self.mode = CUT
        self._listener.close()
        for end in list(self._ends):
            self._reset(end)

    def _reset(self, end: socket.socket) -> None:
        """End a connection with RST, as a router that has forgotten it does."""
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            end.close()
        self._ends.discard(end)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.mode == CUT:
                self.cuts += 1
                self._reset(near)
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.to), timeout=5)
                far.settimeout(None)
            except OSError:
                self._reset(near)
                continue
            self._ends |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink, source is far), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = 0
        with suppress(OSError):
            while piece := source.recv(1024 if self.mode == SLOW else _PIECE):
                if self.mode == SLOW:
                    time.sleep(len(piece) / self.bytes_a_second)
                if self.mode == HANDSHAKE and answers:
                    # The hello got through, and the middle of the server's answer is the last that comes.
                    sink.sendall(piece[: max(0, self.handshake_bytes - passed)])
                    passed += len(piece)
                    if passed >= self.handshake_bytes:
                        self.cuts += 1
                        break
                    continue
                sink.sendall(piece)
        for end in (source, sink):
            self._reset(end)
