"""Codebooks of a codec that is trained from scratch: how they begin, and what becomes of codes that nothing chooses.

A quantizer that rounds from the first step collapses: while the decoder cannot use codes yet, the commitment loss pulls
all of the encoder's vectors onto a few of them (measured: 15 of 1,024 codes in use). So nothing is rounded at first;
then every codebook starts on vectors that the encoder really gives. Later a code that no vector has chosen for a while,
and that so gets no gradient, is moved onto such a vector again (Zeghidour et al., 2021, "SoundStream", section III-C).
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from snac_pipeline.codec import SNAC
from snac_pipeline.codec.quantizer import Quantized
from snac_pipeline.training.ranks import Ranks
from snac_pipeline.training.recipe import Codebooks

RESERVOIR = 4096
"""Recent vectors per level to draw codes from."""

Note = tuple[list[Tensor], list[Tensor]]
"""Of a batch, per level: codes (N,), and vectors (N, codebook_dim)."""


class CodebookCare:
    """Counts how often codes are chosen and keeps recent vectors. Its state is part of the checkpoint."""

    def __init__(self, model: SNAC, options: Codebooks):
        spec, device = model.spec, next(model.parameters()).device
        self.quantizers = model.quantizer.levels
        self.options = options
        self.counts_KV = torch.zeros(spec.levels, spec.codebook_size, dtype=torch.int64, device=device)
        self.recent: list[Tensor] = [torch.empty(0, spec.codebook_dim, device=device) for _ in range(spec.levels)]
        self.noted: list[Note] = []

    def rounds(self, step: int) -> bool:
        """Whether latents are rounded to codes at `step`."""
        return step >= self.options.start_step

    @torch.no_grad()
    def observe(self, quantized: Quantized) -> None:
        """Take note of a batch's choices and vectors."""
        codes = [level.flatten() for level in quantized.codes]
        vectors = [level.detach().transpose(1, 2).flatten(0, 1) for level in quantized.projected]
        self.noted.append((codes, vectors))

    def settle(self, ranks: Ranks) -> None:
        """A step is done: count what was noted in all processes.

        Batch by batch, and each in the order of its items, as one process would have noted it. Of a step's last batch
        some processes may have had nothing. Alone, everything stays on the device and the host waits for nothing.
        """
        device = self.counts_KV.device
        by_batch = itertools.zip_longest(*ranks.gather(self.noted if ranks.world == 1 else _moved(self.noted, "cpu")))
        for codes, vectors in _moved([note for notes in by_batch for note in notes if note is not None], device):
            for k, counts in enumerate(self.counts_KV):
                counts.index_add_(0, codes[k], torch.ones_like(codes[k]))  # bincount would ask the device for its size
                # Cloned, since a checkpoint would hold all that a slice is a view of.
                self.recent[k] = torch.cat([self.recent[k], vectors[k]])[-RESERVOIR:].clone()
        self.noted = []

    def tend(self, step: int, steps: int) -> bool:
        """Before `step` of `steps`: begin the codebooks, or move codes that nothing chose, when it is time.

        Whether it was time.
        """
        since = step - self.options.start_step
        if since == 0 and step > 0:
            self._begin()
        elif since > 0 and since % self.options.restart_every == 0 and step < self.options.restart_until * steps:
            self._restart()
        else:
            return False
        return True

    @torch.no_grad()
    def _begin(self) -> None:
        for quantizer, vectors in zip(self.quantizers, self.recent, strict=True):
            if not len(vectors):
                continue
            # Codes are told apart by their angle, so their cloud has to lie round the origin. Moving it there in one
            # projection and back in the other changes nothing else.
            bias_in, bias_out = quantizer.in_proj.bias, quantizer.out_proj.bias
            assert bias_in is not None and bias_out is not None
            mean = vectors.mean(dim=0).to(bias_in)
            bias_out += quantizer.out_proj.weight[:, :, 0] @ mean
            bias_in -= mean
            vectors -= mean
        self.counts_KV.zero_()
        self._restart()

    @torch.no_grad()
    def _restart(self) -> None:
        for quantizer, counts, vectors in zip(self.quantizers, self.counts_KV, self.recent, strict=True):
            dead = (counts == 0).nonzero().flatten()
            if len(vectors) and len(dead):
                drawn = torch.randperm(len(vectors)).repeat(-(-len(dead) // len(vectors)))[: len(dead)]
                weight = quantizer.codebook.weight
                weight[dead] = vectors[drawn.to(vectors.device)].to(weight)
        self.counts_KV.zero_()

    def perplexity(self) -> Tensor:
        """Per level (K,), the effective number of codes chosen since the last restart: e to their entropy in nats."""
        share_KV = self.counts_KV / self.counts_KV.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.exp(-torch.xlogy(share_KV, share_KV).sum(dim=1))

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"counts": self.counts_KV, "recent": self.recent}

    def load_state(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        device = self.counts_KV.device
        self.counts_KV, self.recent = state["counts"].to(device), [level.to(device) for level in state["recent"]]


def _moved(notes: list[Note], device: torch.device | str) -> list[Note]:
    return [([x.to(device) for x in codes], [x.to(device) for x in vectors]) for codes, vectors in notes]
