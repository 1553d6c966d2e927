"""What untrusted files, names and services can do here: nothing but be refused, in a sentence, and secrets stay secret.

That notifications keep theirs is in tests/orchestration/test_orchestration_notices.py, that the guard does in
tests/guard, and that names in the report are text in tests/evaluation/test_evaluation_report.py too.
"""

import contextlib
import http.server
import os
import re
import sys
import threading
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # made_training
sys.path.insert(0, str(Path(__file__).parents[1] / "orchestration"))  # made_project

from made_project import write_recording
from made_training import CODEC

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.codec.hub import push, resolve
from snac_pipeline.codes.view import CodesView
from snac_pipeline.corpus import Corpus, read_manifest, scan
from snac_pipeline.corpus.manifest import manifest_file, quarantine_file
from snac_pipeline.errors import PipelineError
from snac_pipeline.page import render_page
from snac_pipeline.tool.codes_files import read_codes
from snac_pipeline.training.checkpoints import load_newest, save_checkpoint
from snac_pipeline.training.restoring import Restorer, _load

REPOSITORY = Path(__file__).parents[2]
SECRET = "hf_SecretThatNobodySees4711"


# ---- files that would run code ---------------------------------------------------------------------------------------


class Payload:
    """Unpickled, it makes the file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.fixture
def codec(tmp_path) -> Path:
    SNAC(CodecSpec.from_dict(CODEC)).save_pretrained(tmp_path / "codec")
    return tmp_path / "codec"


@pytest.fixture
def ran(tmp_path) -> Path:
    """What is there when a payload has run; that the payload works is tried first."""
    proof = tmp_path / "payload-works"
    torch.save(Payload(proof), tmp_path / "works.pt")
    torch.load(tmp_path / "works.pt", weights_only=False)
    assert proof.exists()
    return tmp_path / "payload-ran"


def test_a_codec_with_code_in_its_weights_is_refused_and_the_code_does_not_run(codec, ran):
    (codec / "model.safetensors").unlink()
    torch.save({"decoder": Payload(ran)}, codec / "pytorch_model.bin")
    with pytest.raises(PipelineError, match="holds more than tensors"):
        SNAC.from_pretrained(codec)
    assert not ran.exists()


def test_a_checkpoint_with_code_in_its_state_is_passed_over_and_the_code_does_not_run(codec, ran, tmp_path):
    model = SNAC.from_pretrained(codec)
    folder = save_checkpoint(tmp_path / "run", 1, model, {"step": 1}, keep=2)
    torch.save({"step": Payload(ran)}, folder / "state.pt")
    damaged = []
    with pytest.raises(PipelineError, match=r"no checkpoint of .* can be read"):
        load_newest(tmp_path / "run", model, damaged.append)
    assert len(damaged) == 1 and not ran.exists()


def test_codes_with_code_in_them_are_refused_and_the_code_does_not_run(ran, tmp_path):
    objects = np.array([Payload(ran)], dtype=object)
    np.savez(tmp_path / "codes.npz", codes_0=objects)
    with pytest.raises(PipelineError, match="damaged, or no codes"):
        read_codes(str(tmp_path / "codes.npz"), "codes")
    view = tmp_path / "view"
    view.mkdir()
    (view / "digests.txt").write_text("a")
    np.save(view / "offsets.npy", objects)
    with pytest.raises(PipelineError, match=r"is damaged .*delete it"):
        CodesView(view)
    assert not ran.exists()


@pytest.mark.parametrize("kind", ["pickle", "archive"])
def test_a_restorer_that_is_no_torchscript_is_refused_and_its_code_does_not_run(ran, tmp_path, kind):
    file = tmp_path / "model.pt"
    torch.save(Payload(ran), file, _use_new_zipfile_serialization=kind == "archive")
    with pytest.raises(PipelineError, match="cannot be loaded as TorchScript"):
        _load(Restorer(file, file), "cpu")
    assert not ran.exists()


def test_a_torchscript_archive_with_code_in_its_data_is_refused_and_the_code_does_not_run(ran, tmp_path):
    torch.jit.script(torch.nn.Identity()).save(tmp_path / "good.pt")
    torch.save(Payload(ran), tmp_path / "bad.pt")
    with zipfile.ZipFile(tmp_path / "bad.pt") as bad:
        [pickled] = [bad.read(name) for name in bad.namelist() if name.endswith("/data.pkl")]
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "model.pt", "w") as made:
        for name in good.namelist():
            made.writestr(name.replace("good/", "model/"), pickled if name.endswith("/data.pkl") else good.read(name))
    file = tmp_path / "model.pt"
    with pytest.raises(PipelineError, match="cannot be loaded as TorchScript"):
        _load(Restorer(file, file), "cpu")
    assert not ran.exists()


def test_no_line_of_the_code_loads_what_could_run(tmp_path):
    """Every way of unpickling that there is here says that it takes no code."""
    allowed = {r"torch\.load\(": "weights_only=True", r"np\.load\(": "allow_pickle=False", r"yaml\.load\(": "_Loader"}
    never = r"\bpickle\.loads?\(|\bcloudpickle\b|\bjoblib\.load|\byaml\.unsafe|trust_remote_code=True|\beval\(|\bexec\("
    files = [file for room in ("snac_pipeline", "assets", "resources") for file in (REPOSITORY / room).rglob("*.py")]
    lines = [(file, line) for file in files for line in file.read_text().splitlines()]
    wrong = [(file, line) for file, line in lines if re.search(never, line) and ".eval()" not in line]
    for call, guard in allowed.items():
        wrong += [(file, line) for file, line in lines if re.search(call, line) and guard not in line]
    assert wrong == []
    assert sum(bool(re.search("|".join(allowed), line)) for _, line in lines) >= 5, "the patterns find nothing any more"


# ---- paths -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def speech(tmp_path) -> Path:
    """A corpus of two recordings, beside a secret one."""
    for number, name in enumerate(("speech/a/1.wav", "speech/b/2.wav", "secret/3.wav")):
        write_recording(tmp_path / name, seed=number)
    return tmp_path / "speech"


def scanned(corpus: Corpus, home: Path) -> tuple[list[str], dict[str, str]]:
    """Paths in the manifest, and reasons in the quarantine by path."""
    scan(corpus, home, workers=1)
    aside = pl.read_parquet(quarantine_file(home, corpus.name))
    return sorted(read_manifest(home, [corpus.name])["path"]), dict(aside.select("path", "reason").rows())


@pytest.mark.parametrize("stray", ["../secret/3.wav", "a/../../secret/3.wav", "/etc/passwd", "file:///etc/passwd"])
def test_a_manifest_that_somebody_edited_cannot_name_files_outside_of_its_corpus(speech, tmp_path, stray):
    home = tmp_path / "home"
    scanned(Corpus("speech", speech), home)
    file = manifest_file(home, "speech")
    table = pq.read_table(file)
    paths = [stray, *table["path"].to_pylist()[1:]]
    column = table.schema.get_field_index("path")
    pq.write_table(table.set_column(column, "path", [paths]).replace_schema_metadata(table.schema.metadata), file)
    with pytest.raises(PipelineError, match="not in the corpus's folder") as refused:
        read_manifest(home, ["speech"])
    assert str(file) in str(refused.value) and stray in str(refused.value)


def test_in_a_confined_corpus_links_to_the_outside_are_set_aside_and_links_within_are_not(speech, tmp_path):
    (speech / "a" / "link.wav").symlink_to(tmp_path / "secret" / "3.wav")
    (speech / "c").symlink_to(tmp_path / "secret")
    (speech / "a" / "again.wav").symlink_to(speech / "b" / "2.wav")
    found, aside = scanned(Corpus("speech", speech, confined=True), tmp_path / "home")
    assert found == ["a/1.wav", "a/again.wav", "b/2.wav"]
    assert set(aside) == {"a/link.wav", "c/3.wav"}
    assert all("outside of the corpus's folder" in reason for reason in aside.values())
    assert len(scanned(Corpus("speech", speech), tmp_path / "open")[0]) == 5, "links are followed elsewhere"


def test_a_list_of_a_confined_corpus_names_files_below_its_folder_only(speech, tmp_path):
    (speech / "link.wav").symlink_to(tmp_path / "secret" / "3.wav")
    names = ["a/1.wav", "../secret/3.wav", str(tmp_path / "secret" / "3.wav"), "link.wav", str(speech / "b" / "2.wav")]
    (speech / "list.csv").write_text("\n".join(["path", *names]))
    found, aside = scanned(Corpus("speech", speech / "list.csv", confined=True), tmp_path / "home")
    assert found == ["a/1.wav", "b/2.wav"]
    assert set(aside) == {str(tmp_path / "secret" / "3.wav"), "link.wav"}


# ---- names in pages --------------------------------------------------------------------------------------------------


def test_pages_escape_every_name(tmp_path):
    template = "{% extends 'page.html.j2' %}{% block content %}<p title='{{ name }}'>{{ name }}</p>{% endblock %}"
    (tmp_path / "page.j2").write_text(template)
    name = "<script>alert('x')</script>.wav"
    page = render_page(tmp_path / "page.j2", title=name, name=name)
    assert "<script" not in page and "'x'" not in page and "&lt;script&gt;" in page


# ---- secrets, and who may look ---------------------------------------------------------------------------------------


class _Refusing(http.server.BaseHTTPRequestHandler):
    """A hub that refuses everybody and repeats what it was given."""

    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.seen.append(given)
        body = f'{{"error": "not with {given}"}}'.encode()
        self.send_response(403)
        self.send_header("X-Error-Message", f"not with {given}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""


@contextlib.contextmanager
def refusing_hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("what", ["download", "upload"])
def test_the_hubs_token_is_in_no_message_even_where_the_hub_repeats_it(codec, tmp_path, monkeypatch, capfd, what):
    import huggingface_hub.constants as constants

    _Refusing.seen.clear()
    with refusing_hub() as address:
        monkeypatch.setenv("HF_TOKEN", SECRET)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        with pytest.raises(PipelineError) as refused:
            if what == "download":
                resolve("owner/name", cache_dir=tmp_path / "cache")
            else:
                push(codec, "owner/name", "message")
    assert any(SECRET in given for given in _Refusing.seen), "the token was not even used"
    said = capfd.readouterr()
    assert SECRET not in str(refused.value) + said.out + said.err


def test_the_ui_is_for_this_machine_alone_unless_somebody_asks_for_more():
    starting = re.compile(r"\b(?:dagster dev|dagster-webserver)\b.*")
    texts = [REPOSITORY / "Makefile", REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    commands = [found for text in texts for found in starting.findall(text.read_text())]
    assert commands
    hosts = [host for command in commands for host in re.findall(r"(?:-h|--host)[ =](\S+)", command)]
    assert set(hosts) <= {"127.0.0.1", "localhost"}
    ui = (REPOSITORY / "Makefile").read_text().split("\nui: setup")[1].split("\n\n")[0]
    assert "-h 127.0.0.1" in ui
