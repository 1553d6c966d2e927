"""One thread, and no way to the network: only this machine's own addresses can be connected to."""

import socket

import huggingface_hub
import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Offline, as with HF_HUB_OFFLINE=1 (which huggingface_hub reads once, at import)."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("NO_PROXY", "*")
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            pytest.fail(f"a codec test tried to reach {address}")
        return connect(self, address)

    def guarded_look_up(host, *args, **kwargs):
        if host not in ("127.0.0.1", "::1", "localhost", None):
            pytest.fail(f"a codec test tried to look up {host}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
