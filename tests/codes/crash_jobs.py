"""What the processes that crash do; imported by the one that they are forked from."""

from pathlib import Path
from typing import Any

import torch
from made_codes import PUBLISHED, build, cache, thin
from made_faults import arm

from snac_pipeline import cli
from snac_pipeline.corpus import read_utterances

with torch.inference_mode():  # what torch loads late is there in every fork; polars has threads, and is not touched
    build(thin(PUBLISHED["24khz"]), 0).encode(torch.zeros(1, 1, 2400))


def cache_once(codec: str, home: str, options: dict[str, Any]) -> dict[str, Any]:
    """Cache the corpus `made`: how many utterances were encoded, by the run's own progress, and how it failed."""
    done = 0

    def on_event(event: dict[str, Any]) -> None:
        nonlocal done
        done = event.get("done", done)

    try:
        utterances = read_utterances(Path(home), ["made"], splits=False)
        cache(Path(codec), utterances, Path(home), on_event=on_event, **{"part_utterances": 1, "verify": 0, **options})
    except Exception as error:
        return {"done": done, "error": type(error).__name__, "words": str(error)}
    return {"done": done, "error": None, "words": ""}


def cache_each(codec: str, faults: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """The same for each (faults, home, log), one after the other."""
    results = []
    for fault, home, log in faults:
        arm(fault, home, log)
        results.append(cache_once(codec, home, {}))
    return results


def command_line(*arguments: str) -> int:
    return cli.main(list(arguments))
