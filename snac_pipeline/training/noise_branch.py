"""The decoder's noise while it is trained: where it comes from, and how much of it training leaves.

In: a recipe's `noise`, a batch, a model. Out: `Noise` for the step, and the gain of every noise block.
"""

import numpy as np
import torch
from torch import Tensor, nn

from snac_pipeline.codec import SNAC, CodecSpec, Noise
from snac_pipeline.codec.layers import NoiseBlock
from snac_pipeline.training.data import Batch
from snac_pipeline.training.ranks import ALONE, Ranks
from snac_pipeline.training.recipe import NoiseName


def noise_of(mode: NoiseName, batch: Batch, spec: CodecSpec) -> Noise:
    """The noise of a training step.

    `on` draws from torch's generator as the `snac` package does, `off` leaves it out. `seeded` gives each slice what
    decoding its whole utterance with `noise="seeded"` and the utterance's row as seed would, in every epoch.
    """
    if mode != "seeded":
        return Noise("upstream" if mode == "on" else "off")
    return Noise("seeded", batch.row_B, batch.start_B * spec.vq_strides[0])


def noise_blocks(model: SNAC) -> list[NoiseBlock]:
    """The decoder's noise blocks, first to last; none where the codec has none."""
    return [module for module in model.decoder.modules() if isinstance(module, NoiseBlock)]


class NoiseGain:
    """While entered, listens to every noise block of a model that decodes; see `values`."""

    def __init__(self, model: SNAC):
        self.blocks = noise_blocks(model)
        self.squares: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.blocks]
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "NoiseGain":
        for block, squares in zip(self.blocks, self.squares, strict=True):

            def note(
                conv: nn.Module, x: tuple[Tensor], scale: Tensor, squares: list[tuple[Tensor, Tensor]] = squares
            ) -> None:
                squares.append((scale.detach().float().square().sum(), x[0].detach().float().square().sum()))

            self.hooks.append(block.linear.register_forward_hook(note))
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def values(self, ranks: Ranks = ALONE) -> list[float]:
        """For every block, RMS(W x) / RMS(x) over all that it decoded: how loud its noise n (W x) is beside its signal
        x, n being of variance 1. Unlike a norm of W it counts only what the signal really reaches. 0: no noise is left.
        ranks: the processes that share out what is decoded.
        """
        sums = np.array([torch.tensor(squares).reshape(-1, 2).double().sum(dim=0).tolist() for squares in self.squares])
        noise, signal = ranks.add_up_rows(sums.reshape(-1, 2)).T
        gains: list[float] = np.sqrt(noise / np.maximum(signal, 1e-20)).tolist()
        return gains
