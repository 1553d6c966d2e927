"""Exports: what the published package and ours load, what the card says, what is not overwritten, and the hub."""

import base64
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import snac
import torch
import yaml
from made_training import DOUBLE, NATIVE, PHASE10, PHASE12

from snac_pipeline.codec import SNAC, weights_digest
from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import load_settings
from snac_pipeline.steps.export import Wanted, export
from snac_pipeline.steps.training import train
from snac_pipeline.training.export import EXPORT_FILES

DECODERS = {"decoder_24khz": PHASE10, "decoder_48khz": PHASE12, "decoder_dual_head": PHASE12}
EPOCH = {"curriculum": [{"epochs": 1, "seconds": 0.25}]}
FIGURE = {
    "model": "decoder_24khz", "sample_rate": NATIVE, "metric": "mel_distance", "mean": 0.75, "baseline_mean": 1.0,
    "difference": -0.25, "low": -0.5, "high": -0.125, "pairs": 3, "resampled": 2, "verdict": "better",
}  # fmt: skip


def silent(event):
    pass


@pytest.fixture(scope="module")
def trained(shared, tmp_path_factory):
    """One epoch of each decoder; decoder_48khz has the second head only."""
    home = shared.copy(tmp_path_factory.mktemp("trained"))
    for name, content in DECODERS.items():
        recipe = {**content, **EPOCH, "stages": [{**content["stages"][-1], "epochs": 1}]}
        if name == "decoder_48khz":
            rates = {"trunk": 1e-3, "double_head": 1e-3}
            stages = [{**recipe["stages"][0], "learning_rates": rates}]
            recipe |= {"phase": "phase11", "heads": {"double": PHASE12["heads"]["double"]}, "stages": stages}
        (home.folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    settings = yaml.safe_load((home.folder / "pipeline.yaml").read_text())
    settings["training"] = {"decoders": {name: {"recipe": f"{name}.yaml"} for name in DECODERS}}
    (home.folder / "pipeline.yaml").write_text(yaml.safe_dump(settings))
    settings = load_settings(home.folder / "pipeline.yaml")
    results = {name: train(settings, name, silent) for name in DECODERS}
    return SimpleNamespace(settings=settings, file=home.folder / "pipeline.yaml", results=results)


def exported(trained, run, to, **options):
    return export(trained.settings, Wanted(run, str(to), **options), silent)


def card_of(folder):
    """Front matter and text."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def run_snippets(folder, text):
    """Run the card's own Python, from the folder beside; the variables of each block."""
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    before = os.getcwd()
    os.chdir(folder.parent)
    try:
        for block in blocks:
            variables = {}
            exec(block, variables)
            yield variables
    finally:
        os.chdir(before)


@torch.inference_mode()
def test_the_published_package_loads_a_native_head_strictly_and_decodes_the_same(trained, tmp_path):
    exported(trained, "decoder_24khz", tmp_path / "out")
    theirs, ours = snac.SNAC.from_pretrained(str(tmp_path / "out")), SNAC.from_pretrained(tmp_path / "out")
    trained_model = SNAC.from_pretrained(trained.results["decoder_24khz"]["model"])
    audio = torch.randn(1, 1, 3 * NATIVE // 2, generator=torch.Generator().manual_seed(0)) / 10
    codes = ours.encode(audio)
    assert all(torch.equal(a, b) for a, b in zip(codes, theirs.encode(audio), strict=True))
    decoded = []
    for decode in (theirs.decode, ours.decode, trained_model.decode):
        torch.manual_seed(1)
        decoded.append(decode(codes))
    assert decoded[0].abs().max() > 0
    for other in decoded[1:]:
        torch.testing.assert_close(other, decoded[0], rtol=0, atol=1e-6)


@torch.inference_mode()
def test_the_native_head_of_two_is_exported_alone_for_the_published_package(trained, tmp_path):
    result = exported(trained, "decoder_dual_head", tmp_path / "out", head=NATIVE)
    assert result["loads_with_snac"] and result["output_rates"] == [NATIVE]
    theirs = snac.SNAC.from_pretrained(str(tmp_path / "out"))
    both = SNAC.from_pretrained(trained.results["decoder_dual_head"]["model"])
    codes = both.encode(torch.randn(1, 1, NATIVE, generator=torch.Generator().manual_seed(0)) / 10)
    torch.manual_seed(1)
    expected = both.decode(codes, output_rate=NATIVE)
    torch.manual_seed(1)
    torch.testing.assert_close(theirs.decode(codes), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("decoder", "rates"), [("decoder_48khz", [DOUBLE]), ("decoder_dual_head", [NATIVE, DOUBLE])])
def test_second_heads_are_exported_for_this_package_and_the_card_says_so(trained, tmp_path, decoder, rates):
    result = exported(trained, decoder, tmp_path / "out")
    assert result["output_rates"] == rates and not result["loads_with_snac"]
    assert "pytorch_model.bin" not in result["files"]
    model = SNAC.from_pretrained(tmp_path / "out")
    assert weights_digest(model.state_dict()) == trained.results[decoder]["weights_digest"] == result["weights_digest"]
    front, text = card_of(tmp_path / "out")
    assert front["library_name"] == "snac-pipeline"
    assert "package `snac` cannot load this model: it knows no head at 16 kHz" in text
    assert "The targets at 16 kHz are resampled: " in text
    assert ("--head 8000" in text) == (NATIVE in rates)
    [variables] = run_snippets(tmp_path / "out", text)
    assert [variables[f"decoded_{rate}"].shape[-1] for rate in rates] == rates


def test_a_head_that_was_not_trained_is_refused(trained, tmp_path):
    with pytest.raises(PipelineError, match="trained to give 16000 Hz, not 8000 Hz"):
        exported(trained, "decoder_48khz", tmp_path / "out", head=NATIVE)
    assert not (tmp_path / "out").exists()


def test_the_card_says_where_the_model_comes_from_and_its_snippets_run(trained, tmp_path):
    result = exported(trained, "decoder_24khz", tmp_path / "my codec", license="cc-by-4.0")
    run = trained.settings.home / "runs" / result["run"]
    front, text = card_of(tmp_path / "my codec")
    assert front["license"] == "cc-by-4.0" and front["library_name"] == "snac" and "base_model" not in front
    facts = json.loads((run / "inputs.json").read_text())["inputs"]
    figures = json.loads((run / "result.json").read_text())
    low, high = figures["improvement_interval"][str(NATIVE)]
    base = weights_digest(SNAC.from_pretrained(trained.settings.base_codec.source).state_dict())
    for words in (
        facts["codes_fingerprint"], facts["codes_version"], facts["data"]["train"], facts["data"]["val"], base,
        result["weights_digest"], (run / "recipe.yaml").read_text(), "No evaluation of this model was made.",
        f"{figures['baseline'][str(NATIVE)]:.4f} | {figures['final'][str(NATIVE)]:.4f}",
        f"{100 * low:+.1f} to {100 * high:+.1f} %",
        f"snac-pipeline export {run.name} --to '{tmp_path / 'my codec'}' --license cc-by-4.0\n",
    ):  # fmt: skip
        assert words in text, words
    stock, ours = run_snippets(tmp_path / "my codec", text)
    assert stock["decoded"].shape == (*ours[f"decoded_{NATIVE}"].shape[:2], NATIVE + -NATIVE % 256)


def test_the_newest_evaluation_of_the_model_is_in_the_card(trained, tmp_path):
    name = Path(trained.results["decoder_24khz"]["run"]).name
    evaluations = trained.settings.home / "evaluation"
    for folder, run in (("of-this", name), ("of-another", "phase10-other")):
        (evaluations / folder).mkdir(parents=True)
        rows = [{**FIGURE, "mean": 0.75 if run == name else 0.25}, {**FIGURE, "model": "base", "difference": None}]
        content = {"versions": {"runs · decoder_24khz": run}, "metrics": rows}
        (evaluations / folder / "summary.json").write_text(json.dumps(content))
    try:
        exported(trained, name, tmp_path / "out")
    finally:
        shutil.rmtree(evaluations)
    _, text = card_of(tmp_path / "out")
    rows = [line for line in text.splitlines() if line.startswith("| Mel distance")]
    assert [row.split(" | ", 1)[1] for row in rows] == [
        "8 kHz | 1 | 0.75 | -0.25 | -0.5 to -0.125 | 3, with a resampled reference: 2 | better |"
    ]


def test_an_earlier_export_is_replaced_and_anything_else_only_by_force(trained, tmp_path):
    out = tmp_path / "out"
    exported(trained, "decoder_24khz", out)
    exported(trained, "decoder_dual_head", out)
    assert "pytorch_model.bin" not in {path.name for path in out.iterdir()}
    (out / "notes.txt").write_text("mine")
    with pytest.raises(PipelineError, match=r"not an earlier export: it holds notes\.txt"):
        exported(trained, "decoder_24khz", out)
    assert (out / "notes.txt").read_text() == "mine"
    exported(trained, "decoder_24khz", out, force=True)
    assert {path.name for path in out.iterdir()} == EXPORT_FILES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("run", "to", "options", "words"),
    [
        ("decoder_96khz", "out", {}, "is no decoder of the settings"),
        ("decoder_24khz", "out", {"push": True}, "give --to hub:owner/name"),
        ("decoder_24khz", "hub:codec", {}, "names no place on the hub"),
        ("decoder_24khz", "hub:../codec", {}, "names no place on the hub"),
    ],
)
def test_what_cannot_be_exported_is_told_and_not_written(trained, tmp_path, monkeypatch, run, to, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PipelineError, match=words):
        exported(trained, run, to, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_finished_is_no_export(trained, tmp_path):
    run = tmp_path / "phase10-begun"
    shutil.copytree(trained.results["decoder_24khz"]["run"], run)
    (run / "result.json").unlink()
    with pytest.raises(PipelineError, match="is not finished; train it to its end"):
        exported(trained, str(run), tmp_path / "out")


# ---- the hub -------------------------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's API as an upload needs, with weights through its large-file storage (Git LFS, not Xet)."""

    token = "hf_secret"
    repositories, stored, messages, made = {}, {}, [], []

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_GET(self):
        name, _, revision = self.path.split("?")[0].removeprefix("/api/models/").partition("/tree/")
        if name not in self.repositories:
            return self.answer({"error": "Repository not found"}, 404)
        assert revision == "main", self.path
        self.answer([{"type": "file", "path": file, "size": 1, "oid": "0" * 40} for file in self.repositories[name]])

    def do_PUT(self):
        data = self.body()
        assert hashlib.sha256(data).hexdigest() == self.path.rsplit("/", 1)[-1]
        self.stored[self.path.rsplit("/", 1)[-1]] = data
        self.answer({})

    def do_POST(self):
        body, address = self.body(), f"http://{self.headers['Host']}"
        if self.headers["Authorization"] != f"Bearer {self.token}":
            return self.answer({"error": "Invalid credentials in Authorization header"}, 401)
        if self.path == "/api/repos/create":
            made = json.loads(body)
            self.made.append(made)
            name = f"{made['organization']}/{made['name']}"
            known = name in self.repositories
            self.repositories.setdefault(name, {".gitattributes": b""})
            return self.answer({"url": f"{address}/{name}", "name": name, "id": name}, 409 if known else 200)
        if self.path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(body)["files"]]
            large = {file: file.endswith((".safetensors", ".bin")) for file in files}
            modes = {file: "lfs" if large[file] else "regular" for file in files}
            return self.answer({"files": [
                {"path": file, "uploadMode": modes[file], "shouldIgnore": False} for file in files
            ]})  # fmt: skip
        if self.path.endswith("/info/lfs/objects/batch"):
            asked = json.loads(body)["objects"]
            return self.answer({"transfer": "basic", "objects": [
                {**o, "actions": {"upload": {"href": f"{address}/storage/{o['oid']}"}}} for o in asked
            ]})  # fmt: skip
        assert "/commit/" in self.path, self.path
        return self.commit(body, address)

    def commit(self, body, address):
        owner, name = self.path.split("/")[3:5]
        files = self.repositories[f"{owner}/{name}"]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                assert line["key"] == "header"
                self.messages.append(value["summary"])
        self.answer({"commitUrl": f"{address}/{owner}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40})

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    Hub.repositories, Hub.stored, Hub.messages, Hub.made = {}, {}, [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def here(hub, monkeypatch):
    """This process finds that hub."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", Hub.token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_a_push_is_one_commit_that_holds_the_export_and_drops_weights_of_before(trained, tmp_path, hub):
    """As a user does it, in a process that finds this hub; first over an export with weights for the other package."""
    Hub.repositories["me/codec"] = {".gitattributes": b"", "pytorch_model.bin": b"of before", "notes.md": b"theirs"}
    command = ["export", "decoder_dual_head", "--to", "hub:me/codec", "--push", "--settings", trained.file, "--json"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    found = {"HF_ENDPOINT": hub, "HF_TOKEN": Hub.token, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    found["HF_HUB_DISABLE_XET"] = "1"
    command = [sys.executable, "-m", "snac_pipeline.cli", *map(str, command)]
    done = subprocess.run(command, env={**clean, **found}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["pushed"] == f"{hub}/me/codec/commit/{'1' * 40}"
    files = Hub.repositories["me/codec"]
    assert (files.pop(".gitattributes"), files.pop("notes.md")) == (b"", b"theirs")
    folder = trained.settings.home / "exports" / "me--codec"
    assert files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "pytorch_model.bin" not in files
    assert b'from_pretrained("me/codec")' in files["README.md"]
    [message] = Hub.messages
    assert result["run"] in message


def test_a_push_makes_the_repository_it_needs(trained, here):
    exported(trained, "decoder_24khz", "hub:me/new", push=True, private=True)
    assert set(Hub.repositories["me/new"]) == {".gitattributes", *EXPORT_FILES}
    assert Hub.made == [{"name": "new", "organization": "me", "visibility": "private"}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": "hf_wrong"}, "set HF_TOKEN to a token that may write there"),
        ({"HF_HUB_OFFLINE": True}, "HF_HUB_OFFLINE is set, so me/codec cannot be uploaded"),
        ({"ENDPOINT": "http://127.0.0.1:9"}, "me/codec could not be uploaded"),
    ],
    ids=["token", "offline", "unreachable"],
)
def test_a_push_that_fails_says_so_in_one_sentence(trained, here, monkeypatch, changes, words):
    for name, value in changes.items():
        if name == "token":
            monkeypatch.setenv("HF_TOKEN", value)
        else:
            monkeypatch.setattr(huggingface_hub.constants, name, value)
    with pytest.raises(PipelineError, match=words) as raised:
        exported(trained, "decoder_24khz", "hub:me/codec", push=True)
    assert "\n" not in str(raised.value)
    assert Hub.repositories == {}


def test_without_push_nothing_leaves_the_machine(trained, here):
    said = []
    result = export(trained.settings, Wanted("decoder_24khz", "hub:me/codec"), said.append)
    assert result["pushed"] is None and "nothing was uploaded" in said[0]["message"]
    assert Hub.repositories == {}
