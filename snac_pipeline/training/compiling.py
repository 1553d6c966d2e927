"""torch.compile where there is a compiler, and the eager way, said aloud, where there is none.

On a CPU two kinds of operation are compiled for any shape (codec/kernels.py). On a GPU the whole decoder is, for the
one shape that a lesson of the curriculum has, its depthwise convolutions written out so that they are fused too.
"""

from collections.abc import Callable
from typing import Any

import torch

from snac_pipeline.codec import SNAC
from snac_pipeline.codec.kernels import eager_kernels, fuse_kernels, fuse_on_gpu
from snac_pipeline.training.data import Batch
from snac_pipeline.training.plan import Span
from snac_pipeline.training.recipe import Recipe


def choose_kernels(recipe: Recipe, device: torch.device, on_event: Callable[[dict[str, Any]], None]) -> bool:
    """Make this process compute as the recipe wants it; whether the whole decoder is to be compiled as well.

    Where compiling fails, `on_event` is told, and training is eager.
    """
    torch.manual_seed(recipe.seed)
    eager_kernels()
    if not recipe.compile:
        return False
    on_event({"message": "compiling kernels; the first time on a machine takes up to a minute"})
    try:
        if device.type == "cuda":
            torch.compile(torch.sin)(torch.zeros(8, device=device))
            fuse_on_gpu()
            return True
        fuse_kernels()
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        on_event({"message": f"training without compiled kernels, about half as fast: {reason}"})
    return False


class Synthesis:
    """`model.synthesize` for training: compiled anew for each lesson's one shape, or as it is."""

    def __init__(self, model: SNAC, compiled: bool, backend: str | Callable[..., Any] = "inductor"):
        self.model, self.compiled, self.backend = model, compiled, backend
        self.span: Span | None = None
        self.items, self.synthesize = 0, model.synthesize

    def begin(self, span: Span, items: int) -> None:
        """An epoch of `span` begins, whose whole batches have so many items."""
        if self.compiled and span != self.span:
            torch.compiler.reset()  # the shapes before do not come again
            self.span, self.items = span, items
            self.synthesize = torch.compile(self.model.synthesize, dynamic=False, backend=self.backend)

    def of(self, batch: Batch) -> Callable[..., dict[int, torch.Tensor]]:
        """What `batch` is decoded with. The last batch of an epoch, which is smaller, is not worth a compilation."""
        return self.synthesize if len(batch.row_B) == self.items else self.model.synthesize
