"""A forward proxy on loopback: tunnels what CONNECT asks for, or answers as a test says.

with Proxy() as proxy:
    proxy.status = 407                                      # refuses from now on
    proxy.hosts["outside.example"] = "127.0.0.1"            # names that only the proxy knows
    proxy.says = b"rubbish"                                 # answers this, and closes,
    proxy.then = "reset"                                    # or resets, or waits (for the client to close)
    proxy.context = context                                 # speaks TLS itself, in the target's place
    ...                                                     # send something through proxy.url
    assert proxy.asked == ["127.0.0.1:8080"]
"""

import contextlib
import socket
import ssl
import struct
import threading
from typing import Self

# What it says of itself is not the target's.
CONNECTED = b"HTTP/1.1 200 Connected\r\nRetry-After: 77\r\nContent-Type: text/html\r\nX-Proxy: one\r\n\r\n"


class Proxy:
    def __init__(self) -> None:
        self.status = 200
        self.says: bytes | None = None
        self.then = "close"
        self.context: ssl.SSLContext | None = None
        self.hosts: dict[str, str] = {}
        self.asked: list[str] = []
        self.heads: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(4096)
                if not piece:
                    return
                head += piece
            method, target, _ = head.split(b" ", 2)
            self.heads.append(head)
            self.asked.append(target.decode() if method == b"CONNECT" else f"{method.decode()} {target.decode()}")
            if self.says is not None:
                client.sendall(self.says)
                if self.then == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                while self.then == "wait" and client.recv(4096):
                    pass
                return
            if self.context is not None:
                client.sendall(CONNECTED)
                self.context.wrap_socket(client, server_side=True).close()
                return
            if self.status != 200 or method != b"CONNECT":
                client.sendall(b"HTTP/1.1 %d Refused\r\nProxy-Authenticate: Basic\r\nContent-Length: 6\r\n\r\nproxy\n" % self.status)
                return
            host, _, port = target.decode().rpartition(":")
            with socket.create_connection((self.hosts.get(host, host.strip("[]")), int(port)), 5) as there:
                client.sendall(CONNECTED)
                back = threading.Thread(target=_pass_on, args=(there, client), daemon=True)
                back.start()
                _pass_on(client, there)
                back.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65_536):
            sink.sendall(piece)
    for one, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            one.shutdown(how)
