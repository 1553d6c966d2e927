"""Ports for servers of tests."""

import socket


def free_port() -> int:
    """One of 127.0.0.1 that nobody had a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
