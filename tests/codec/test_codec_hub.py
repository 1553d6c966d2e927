"""Codec folders and hub ids: what is right loads, offline too; everything else is one sentence with its mend."""

import hashlib
import http.server
import json
import socket
import threading
import time

import huggingface_hub
import pytest
import safetensors.torch
import torch
from geometries import PUBLISHED, build, thin
from ports import free_port

from snac_pipeline.codec import SNAC, weights_digest
from snac_pipeline.errors import PipelineError

SPEC = thin(PUBLISHED["24khz"])
REVISIONS = {"main": "a" * 40, "v2": "b" * 40}


@pytest.fixture(scope="module")
def codecs():
    """The codec of each revision."""
    return {name: build(SPEC, seed) for seed, name in enumerate(REVISIONS)}


@pytest.fixture
def folder(codecs, tmp_path):
    return codecs["main"].save_pretrained(tmp_path / "codec")


def same(a, b):
    return weights_digest(a.state_dict()) == weights_digest(b.state_dict())


def one_sentence(error) -> str:
    """The message, which a command line prints as it is: short, one line."""
    message = str(error.value)
    assert "\n" not in message and len(message) < 600, message
    return message


# ---- folders ---------------------------------------------------------------------------------------------------


def test_a_saved_codec_loads_in_eval_mode_with_every_tensor_equal(folder, codecs):
    loaded = SNAC.from_pretrained(folder)
    assert same(loaded, codecs["main"]) and not loaded.training and loaded.spec == SPEC
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_the_digest_is_of_the_weights_and_not_of_the_file(folder, codecs):
    state = codecs["main"].state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert same(SNAC.from_pretrained(folder), codecs["main"])
    encoder = weights_digest(state, ("encoder.", "quantizer."))
    name = "decoder.model.0.bias"
    changed = {**state, name: state[name] + 1e-6}
    assert weights_digest(changed) != weights_digest(state)
    assert weights_digest(changed, ("encoder.", "quantizer.")) == encoder
    assert weights_digest(dict(reversed(state.items()))) == weights_digest(state)
    zeros = torch.zeros(4)
    assert len({weights_digest({"a": t}) for t in (zeros, zeros.int(), zeros.reshape(2, 2))}) == 3
    assert weights_digest({"renamed" if k == name else k: v for k, v in state.items()}) != weights_digest(state)


def test_saving_over_a_codec_replaces_it(folder, codecs):
    codecs["v2"].save_pretrained(folder)
    assert same(SNAC.from_pretrained(folder), codecs["v2"])


def test_saving_into_a_folder_that_holds_other_things_does_not_remove_them(codecs, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(PipelineError, match=r"holds thesis\.txt"):
        codecs["main"].save_pretrained(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_config(folder):
    config = {**SPEC.to_dict(), "codebook_size": 62}
    (folder / "config.json").write_text(json.dumps(config))


def as_pickle(folder, content):
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


class Harmful:
    def __reduce__(self):
        return (print, ("code from a checkpoint was run",))


DAMAGES = {
    "no-config": (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
    "no-weights": (lambda f: (f / "model.safetensors").unlink(), "holds neither model.safetensors nor pytorch_model"),
    "config-not-fitting": (other_config, r"do not fit its config.json: .*codebook.weight.*\(and \d more\)"),
    "cut-safetensors": (lambda f: cut(f / "model.safetensors"), "cannot be read"),
    "empty-safetensors": (lambda f: (f / "model.safetensors").write_bytes(b""), "cannot be read"),
    "cut-pickle": (lambda f: (as_pickle(f, {}), cut(f / "pytorch_model.bin")), "cannot be read"),
    "text-as-pickle": (
        lambda f: (as_pickle(f, {}), (f / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1")),
        "cannot be read",
    ),
    "pickle-with-code": (lambda f: as_pickle(f, {"a": Harmful()}), "cannot be read"),
    "pickle-of-a-list": (lambda f: as_pickle(f, [torch.zeros(1)]), "do not fit|cannot be read"),
    "pickle-of-a-checkpoint": (lambda f: as_pickle(f, {"model": {}, "step": 3}), "do not fit|cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_one_sentence_that_names_it(name, folder, capsys):
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(PipelineError, match=message) as error:
        SNAC.from_pretrained(folder)
    assert str(folder) in one_sentence(error)
    assert "code from a checkpoint" not in capsys.readouterr().out


@pytest.mark.parametrize("name, kind", [("extra", "Unexpected"), ("decoder.model.0.bias", "Missing")])
def test_a_tensor_too_many_or_too_few_is_named(folder, codecs, name, kind):
    state = codecs["main"].state_dict()
    if state.pop(name, None) is None:
        state[name] = torch.zeros(1)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    with pytest.raises(PipelineError, match=f"do not fit its config.json: {kind}.*{name}") as error:
        SNAC.from_pretrained(folder)
    one_sentence(error)


# ---- the hub's cache, offline ----------------------------------------------------------------------------------


@pytest.fixture
def cache(codecs, tmp_path):
    """A cache folder as huggingface_hub lays it out, with owner/name in two revisions."""
    cache = tmp_path / "hub"
    for name, commit in REVISIONS.items():
        codecs[name].save_pretrained(cache / "models--owner--name" / "snapshots" / commit)
        refs = cache / "models--owner--name" / "refs"
        refs.mkdir(exist_ok=True)
        (refs / name).write_text(commit)
    return cache


@pytest.mark.parametrize(
    "revision, expected",
    [(None, "main"), ("main", "main"), ("v2", "v2"), ("a" * 40, "main"), ("b" * 40, "v2")],
    ids=["default", "branch", "tag", "commit-of-main", "commit-of-tag"],
)
@pytest.mark.parametrize("how", ["HF_HUB_OFFLINE", "local_files_only"])
def test_a_cached_id_loads_offline_in_the_revision_asked_for(cache, codecs, revision, expected, how, monkeypatch):
    if how == "local_files_only":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    options = {"local_files_only": True} if how == "local_files_only" else {}
    loaded = SNAC.from_pretrained("owner/name", revision=revision, cache_dir=cache, **options)
    assert same(loaded, codecs[expected])


def test_a_folder_named_like_an_id_is_taken_before_the_hub(cache, codecs, tmp_path, monkeypatch):
    codecs["v2"].save_pretrained(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert same(SNAC.from_pretrained("owner/name", cache_dir=cache), codecs["v2"])


@pytest.mark.parametrize(
    "source, message",
    [
        ("owner/other", "owner/other .*not in the local hub cache.*check the spelling"),
        ("./codec", "neither a folder nor a hub id"),
        ("models/base/codec", "neither a folder nor a hub id"),
        ("codec", "neither a folder nor a hub id"),
        ("", "neither a folder nor a hub id"),
        ("own er/na?me", "valid hub id"),
        ("owner/", "hub id"),
        ("/nowhere/codec", "neither a folder nor a hub id"),
    ],
)
def test_an_id_that_is_not_here_is_one_sentence(source, message, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=message) as error:
        SNAC.from_pretrained(source, cache_dir=cache)
    one_sentence(error)


def test_a_revision_that_is_not_cached_is_one_sentence_that_names_it(cache):
    with pytest.raises(PipelineError, match="v3") as error:
        SNAC.from_pretrained("owner/name", cache_dir=cache, revision="v3")
    one_sentence(error)


def test_a_cached_snapshot_without_weights_is_one_sentence(cache):
    (cache / "models--owner--name" / "snapshots" / REVISIONS["main"] / "model.safetensors").unlink()
    with pytest.raises(PipelineError, match=r"model\.safetensors") as error:
        SNAC.from_pretrained("owner/name", cache_dir=cache)
    one_sentence(error)


# ---- a hub that answers, on this machine -----------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """The three calls of the hub's API that a download makes, for owner/name; 404 or 503 for others."""

    files: dict[str, bytes]
    broken = False

    def do_GET(self):
        path = self.path.split("?")[0]
        commit = REVISIONS["main"]
        if path.startswith("/api/models/down/"):
            return self.answer(b"{}", 503)
        if path.startswith("/api/models/owner/name/"):
            kind, _, revision = path.removeprefix("/api/models/owner/name/").partition("/")
            if revision.split("/")[0] not in ("main", commit):
                return self.answer(b"{}", 404, {"X-Error-Code": "RevisionNotFound"})
            if kind == "tree":
                tree = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in self.files.items()
                ]
                return self.answer(json.dumps(tree).encode())
            siblings = [{"rfilename": name} for name in self.files]
            return self.answer(json.dumps({"id": "owner/name", "sha": commit, "siblings": siblings}).encode())
        if path.startswith(f"/owner/name/resolve/{commit}/"):
            data = self.files[path.rsplit("/", 1)[1]]
            return self.answer(data, 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
        return self.answer(b'{"error": "Repository not found"}', 401, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def answer(self, body, status=200, headers=None):
        self.asked.append(self.headers["Authorization"])
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            if self.broken and len(body) > 10_000:
                body = body[: len(body) // 2]
                self.close_connection = True
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(folder, monkeypatch):
    """huggingface_hub pointed, online, at a server of this process."""
    handler = type("FilledHub", (Hub,), {"asked": [], "files": {p.name: p.read_bytes() for p in folder.iterdir()}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield handler
    server.shutdown()
    server.server_close()


def test_an_id_is_downloaded_once_and_then_loads_without_the_hub(hub, codecs, tmp_path, monkeypatch):
    assert same(SNAC.from_pretrained("owner/name", cache_dir=tmp_path / "hub"), codecs["main"])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert same(SNAC.from_pretrained("owner/name", cache_dir=tmp_path / "hub"), codecs["main"])


def test_a_token_is_shown_and_a_download_forced_as_with_the_package(hub, codecs, tmp_path):
    options, calls = {"cache_dir": tmp_path / "hub", "token": "hf_of_mine"}, []
    for forced in (False, False, True):
        hub.asked.clear()
        assert same(SNAC.from_pretrained("owner/name", **options, force_download=forced), codecs["main"])
        assert "Bearer hf_of_mine" in hub.asked
        calls.append(len(hub.asked))
    first, cached, again = calls
    assert cached < min(first, again)


@pytest.mark.parametrize(
    "source, revision, message",
    [
        ("owner/wrong", None, "no codec owner/wrong"),
        ("owner/name", "v9", "no revision 'v9' of owner/name"),
        ("down/name", None, "cannot be reached"),
    ],
    ids=["wrong-id", "wrong-revision", "server-error"],
)
def test_what_the_hub_refuses_is_one_sentence(hub, source, revision, message, tmp_path):
    with pytest.raises(PipelineError, match=message) as error:
        SNAC.from_pretrained(source, revision=revision, cache_dir=tmp_path / "hub")
    one_sentence(error)


def test_a_hub_that_does_not_answer_is_one_sentence(hub, tmp_path, monkeypatch):
    port = free_port()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(PipelineError, match="cannot be reached") as error:
        SNAC.from_pretrained("owner/name", cache_dir=tmp_path / "hub")
    one_sentence(error)


def test_a_cache_folder_that_cannot_be_made_is_named_and_not_blamed_on_the_connection(hub, tmp_path):
    (tmp_path / "hub").write_text("a file where the cache should be")
    with pytest.raises(PipelineError, match=r"could not be downloaded \(.*hub") as error:
        SNAC.from_pretrained("owner/name", cache_dir=tmp_path / "hub")
    one_sentence(error)


def test_a_download_that_breaks_off_is_one_sentence_and_the_next_try_is_whole(hub, codecs, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between huggingface_hub's own retries
    hub.broken = True
    with pytest.raises(PipelineError) as error:
        SNAC.from_pretrained("owner/name", cache_dir=tmp_path / "hub")
    one_sentence(error)
    hub.broken = False
    assert same(SNAC.from_pretrained("owner/name", cache_dir=tmp_path / "hub"), codecs["main"])


def test_no_test_here_can_reach_the_network():
    with pytest.raises(pytest.fail.Exception, match="look up"):
        socket.create_connection(("huggingface.co", 443), timeout=1)
    with socket.socket() as outside, pytest.raises(pytest.fail.Exception, match="reach"):
        outside.connect(("192.0.2.1", 443))
