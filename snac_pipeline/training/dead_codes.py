"""Restart of codes that nothing chooses, when a quantizer is trained from scratch.

A code that no vector has chosen for a while gets no gradient and stays dead. It is put where the encoder's vectors are:
on a random one of the current batch (Zeghidour et al., 2021, "SoundStream", section III-C).
"""

import torch
from torch import Tensor

from snac_pipeline.codec import SNAC
from snac_pipeline.codec.quantizer import Quantized


class CodeUse:
    """How often each code was chosen since the last restart. Part of the checkpoint."""

    def __init__(self, model: SNAC):
        spec = model.spec
        self.counts_KV = torch.zeros(spec.levels, spec.codebook_size, dtype=torch.int64)

    def count(self, quantized: Quantized) -> None:
        """Add a batch's choices."""
        for k, codes in enumerate(quantized.codes):
            self.counts_KV[k] += torch.bincount(codes.flatten().cpu(), minlength=self.counts_KV.shape[1])

    @torch.no_grad()
    def restart(self, model: SNAC, quantized: Quantized) -> list[int]:
        """Move every unchosen code onto a vector of this batch; returns how many per level, and counts anew."""
        moved = []
        for k, quantizer in enumerate(model.quantizer.quantizers):
            dead = (self.counts_KV[k] == 0).nonzero().flatten()
            vectors: Tensor = quantized.projected[k].transpose(1, 2).flatten(0, 1)
            chosen = torch.randint(len(vectors), (len(dead),))
            weight = quantizer.codebook.weight
            weight[dead.to(weight.device)] = vectors[chosen.to(vectors.device)]
            moved.append(len(dead))
        self.counts_KV.zero_()
        return moved
