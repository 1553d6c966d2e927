"""CUDA graphs: a function whose inputs have few shapes is recorded once for each and then replayed by the GPU alone.

In: a function of tensors on one device. Out: the same function. An encoder is some 400 kernels, each shorter than what
the host needs to start it; a replay starts them all at once. Where nothing can be recorded the function is called as
it is, and that is said.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., list[Tensor]]
Replay = Callable[[], list[Tensor]]
WARM_UP = 3
"""Calls before the recording: they choose kernels and compile Triton's, which cannot be recorded."""


class Graphs:
    """`function`, recorded for each shape of its inputs. capture: what records; see `capture_cuda`."""

    def __init__(self, function: Function, capture: Callable[[Replay], Replay]):
        self.function, self.capture = function, capture
        self.recorded: dict[tuple[torch.Size, ...], tuple[tuple[Tensor, ...], Replay]] = {}
        self.too_large: set[tuple[torch.Size, ...]] = set()
        self.works = True

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Raises torch.OutOfMemoryError where recording does; inputs of those shapes are not recorded again."""
        shapes = tuple(one.shape for one in inputs)
        if self.works and shapes not in self.recorded and shapes not in self.too_large:
            self._record(shapes, inputs)
        if shapes not in self.recorded:
            return self.function(*inputs)
        held, replay = self.recorded[shapes]
        for there, here in zip(held, inputs, strict=True):
            there.copy_(here)
        return [output.clone() for output in replay()]  # the next replay writes into the same memory

    def _record(self, shapes: tuple[torch.Size, ...], inputs: tuple[Tensor, ...]) -> None:
        held = tuple(one.clone() for one in inputs)
        try:
            self.recorded[shapes] = held, self.capture(lambda: self.function(*held))
        except RuntimeError as error:
            for one in (error, error.__context__):  # the end of a recording that failed may fail as well
                if isinstance(one, torch.OutOfMemoryError):
                    self.too_large.add(shapes)
                    raise one from None
            reason = str(error).strip().splitlines()[0]
            print(f"encoding without CUDA graphs, more slowly: {reason}", file=sys.stderr, flush=True)
            self.works = False
            self.recorded.clear()


def capture_cuda(call: Replay, pool: Any = None) -> Replay:
    """Record `call` on the current GPU. pool: a handle of memory shared with other graphs that
    never run at the same time."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        outputs = call()

    def replay() -> list[Tensor]:
        graph.replay()
        return outputs

    return replay
