"""The whole pipeline in one command: Dagster's job `pipeline` in a process of its own, then its results in a table."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import SETTINGS_VARIABLE, Settings, settings_path

SUPERSEDED = "ignore:Function `job_execute_command` is superseded"
"""For Python's -W: what Dagster says of `dagster job execute`, which `dg launch` is to follow."""

STOP_SECONDS = 30.0
"""What Dagster and its step have to end in; the step's own grace is 8 s."""


def run_pipeline(settings_file: str | None, limit: int | None) -> None:
    """Execute the job `pipeline`, its lines on standard error.

    limit: files of each corpus at most. Raises PipelineError when the job fails.
    """
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "snac_pipeline.definitions", "-j", "pipeline"]
    environment = {
        **os.environ,
        SETTINGS_VARIABLE: str(settings_path(settings_file).resolve()),
        "PYTHONWARNINGS": ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), SUPERSEDED))),
    }
    print("starting Dagster; the first step begins in a few seconds", file=sys.stderr, flush=True)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        yaml.safe_dump(_run_config(limit), config)
        config.flush()
        status = _run_to_the_end([*command, "-c", config.name], environment)
    if status != 0:
        raise PipelineError("the job `pipeline` failed; the first failed step above says why. Run it again to go on")


def _run_to_the_end(command: list[str], environment: dict[str, str]) -> int:
    """Run `command` in a session of its own. An interrupt is passed on, and waited for until it has saved its state."""
    process = subprocess.Popen(command, env=environment, stdout=sys.stderr, start_new_session=True)
    try:
        while process.poll() is None:
            time.sleep(0.2)  # not wait(): libraries that take signals too can keep it from being interrupted
        return process.returncode
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


def _run_config(limit: int | None) -> dict[str, Any]:
    """Short lines on the terminal, and the limit where there is one."""
    config: dict[str, Any] = {"loggers": {"console": {}}}
    if limit is not None:
        config["ops"] = {"manifest": {"config": {"limit": limit}}}
    return config


def summary(settings: Settings) -> dict[str, Any]:
    """The figures of a finished pipeline, read from its files."""
    print("reading the results", file=sys.stderr, flush=True)

    # Loaded here, since the process that waits for Dagster needs none of it.
    from snac_pipeline.steps.evaluation import evaluate
    from snac_pipeline.steps.tokens import analyze
    from snac_pipeline.steps.training import decoder_results

    def silent(event: dict[str, Any]) -> None:
        pass

    evaluation = evaluate(settings, silent)
    statistics = analyze(settings, "statistics", silent)
    bpe = analyze(settings, "bpe", silent)
    rows = [row for row in evaluation["table"] if row["metric"] == evaluation["headline_metric"]]
    columns = ("model", "sample_rate", "mean", "baseline_mean", "difference", "low", "high", "verdict")
    return {
        "headline": {key: evaluation[f"headline_{key}"] for key in ("metric", "label", "unit", "higher_is_better")},
        "decoders": [{key: row[key] for key in columns} for row in rows],
        "resampled_references": any(row["resampled"] for row in rows),
        "utterances": evaluation["utterances"],
        "hours": statistics["hours"],
        "tokens": statistics["tokens"],
        "bpe_ratio": bpe["compression_ratio"],
        "recommendation": bpe["recommendation"],
        "report": evaluation["report"],
        "checkpoints": {
            name: result["model"] for name, result in decoder_results(settings).items() if result is not None
        },
        "codes": str(settings.home / "codes"),
    }


def print_summary(figures: dict[str, Any]) -> None:
    """The short table that a demo ends with."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table(title=f"Held-out speech: {figures['utterances']} utterances of speakers that training never heard")
    table.add_column("decoder")
    headline = figures["headline"]
    metric = f"{headline['label']}, {headline['unit']}" if headline["unit"] else headline["label"]
    for name in ("rate", metric, "improvement", "95 % interval"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in figures["decoders"]:
        mean = "" if row["mean"] is None else f"{row['mean']:.3f}"
        table.add_row(row["model"], f"{row['sample_rate'] / 1000:g} kHz", mean, *_improvement(row, headline))
    console.print(table)
    if figures["resampled_references"]:
        console.print("48 kHz rows: the recordings have a lower rate and were resampled to be compared with.")
    console.print(
        f"cached  {figures['hours']:.3f} h, {figures['tokens']:,} tokens; BPE ratio {figures['bpe_ratio']:.3f}"
    )
    console.print(f"report  {figures['report']}", soft_wrap=True)
    for name, folder in figures["checkpoints"].items():
        console.print(f"{name:<18} {folder}", soft_wrap=True)
    console.print(f"codes   {figures['codes']}", soft_wrap=True)


def _improvement(row: dict[str, Any], headline: dict[str, Any]) -> tuple[str, str]:
    """How much better than the base codec at the same rate: a distance in percent of the base's, which has a zero; what
    is better when it is higher in its own unit."""
    if row["difference"] is None:
        return "", ""
    ends = ("low", "high") if headline["higher_is_better"] else ("high", "low")
    mean, low, high = (row[key] for key in ("difference", *ends))
    if headline["higher_is_better"] or row["baseline_mean"] <= 0:
        sign = 1 if headline["higher_is_better"] else -1
        return f"{sign * mean:+.3f}", f"{sign * low:+.3f} .. {sign * high:+.3f}"
    mean, low, high = (-100 * value / row["baseline_mean"] for value in (mean, low, high))
    return f"{mean:+.1f} %", f"{low:+.1f} .. {high:+.1f} %"
