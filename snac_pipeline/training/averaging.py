"""An exponential moving average of the trained weights, often better held out than the weights themselves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average of a model's parameters over steps; without a decay, the parameters themselves.

    After step t (from 0) average = d average + (1 - d) parameters, with d = min(decay, (1 + t) / (10 + t)), so that
    where training began is soon forgotten. Its state is part of the checkpoint.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float | None):
        self.decay, self.parameters = decay, dict(parameters) if decay is not None else {}
        self.means = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters as they are after `step`."""
        if self.decay is None:
            return
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([self.means[name] for name in self.parameters], list(self.parameters.values()), share)

    @torch.no_grad()
    def restart(self, prefix: str) -> None:
        """Begin anew for the parameters whose names start with `prefix`, which were set and not learned."""
        for name, parameter in self.parameters.items():
            if name.startswith(prefix):
                self.means[name].copy_(parameter)

    @torch.no_grad()
    def settle(self) -> None:
        """Make the averages the model's weights for good."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.means[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While entered, the model has the averages for its weights."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.means[name] = self.means[name], parameter.data

    def state(self) -> dict[str, Tensor]:
        """For the checkpoint."""
        return self.means

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """From the checkpoint."""
        for name, mean in state.items():
            self.means[name].copy_(mean)
