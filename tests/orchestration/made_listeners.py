"""Servers on 127.0.0.1 that take what notifications send: a webhook, and a mail server of a few commands."""

import contextlib
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from typing import Any


class Webhook(http.server.HTTPServer):
    """Takes JSON; `received` has the (path, content) of each request. answer: its status."""

    def __init__(self, answer: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Posted)
        self.answer = answer
        self.received: list[tuple[str, dict[str, Any]]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Posted(http.server.BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append((self.path, content))
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""


class MailServer(socketserver.ThreadingTCPServer):
    """As much SMTP as smtplib needs; `logins` and `messages` have what came."""

    daemon_threads = True

    def __init__(self, takes_logins: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Mailed)
        self.takes_logins = takes_logins
        self.logins: list[str] = []
        self.messages: list[str] = []

    @property
    def port(self) -> int:
        return self.server_address[1]


class _Mailed(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self._say("220 here")
        for line in self.rfile:
            match line.decode().split():
                case ["ehlo" | "EHLO", *_]:
                    self._say("250-here", "250 AUTH PLAIN")
                case ["AUTH", "PLAIN", secret]:
                    self.server.logins.append(secret)
                    self._say("235 ok" if self.server.takes_logins else "535 no")
                case ["data" | "DATA"]:
                    self._say("354 go on")
                    self.server.messages.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
                    self._say("250 taken")
                case ["quit" | "QUIT"]:
                    self._say("221 bye")
                    return
                case _:
                    self._say("250 ok")

    def _say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())


@contextlib.contextmanager
def listening(server: Any) -> Iterator[Any]:
    """The server, answering in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
