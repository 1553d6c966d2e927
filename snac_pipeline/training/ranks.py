"""Several processes that train one model together, started by torch.distributed.run (torchrun) on one or more machines.

Every process has the whole model. Of each batch of the plan a process decodes its share, a run of consecutive items;
the gradients are then added up, weighted by items, so that the step is that of the whole batch in one process. That is
done here rather than by torch's DistributedDataParallel, which averages processes whatever they decoded, and has to be
built anew whenever a stage trains other parts; as there, it goes on while the backward pass does (Li et al., 2020,
"PyTorch Distributed"). Process 0 decides and writes.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from snac_pipeline.engine.child import die_with_parent
from snac_pipeline.errors import PipelineError, ProcessLost

Item = TypeVar("Item")
Value = TypeVar("Value")

PATIENCE = datetime.timedelta(hours=2)
"""How long the others wait for what process 0 prepares alone. A process that dies is noticed at once."""


PIECE_BYTES = 8 << 20
"""Of gradients that are sent at once: much less costs latency, much more leaves little to overlap."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, seen from number `rank` of them. Alone, every method is the identity."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's items of a batch; none, when there are fewer items than processes."""
        n = len(items)
        return items[n * self.rank // self.world : n * (self.rank + 1) // self.world]

    def first_does(self, work: Callable[[], Value]) -> Value:
        """What `work` gives in process 0, which alone calls it; a PipelineError of it is everybody's."""
        if self.world == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except PipelineError as error:
                outcome[1] = str(error)
        with _lost_if_broken():
            dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise PipelineError(outcome[1])
        value: Value = outcome[0]
        return value

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, in order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with _lost_if_broken():
            dist.all_gather_object(values, value)
        return values

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether some process has it set."""
        if self.world == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)
        with _lost_if_broken():
            dist.all_reduce(raised, dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised.tolist()]

    def add_up_rows(self, rows: np.ndarray) -> np.ndarray:
        """The sum of the processes' arrays of float64."""
        return rows if self.world == 1 else np.sum(self.gather(rows), axis=0)

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Give every tensor the value that it has in process 0."""
        if self.world > 1:
            with _lost_if_broken(), torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor.data, src=0)


ALONE = Ranks()


class GradientSum:
    """The sum over all processes of the gradients of one step, of `parameters` in the order in which they are used.

    Gradients are sent in pieces, the last parameters first, since theirs are there first: a piece goes off while the
    backward pass computes the next one. All processes send the same pieces in the same order, also those that had
    nothing to decode. Alone it does nothing.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks):
        self.ranks = ranks
        self.pieces = list(_pieces(list(parameters)[::-1])) if ranks.world > 1 else []
        self.awaited = [len(piece) for piece in self.pieces]
        self.sent: list[tuple[Tensor, dist.Work]] = []

    @contextlib.contextmanager
    def last_backward(self) -> Iterator[None]:
        """Around the backward pass that completes this process's gradients."""
        with contextlib.ExitStack() as hooks:
            for number, piece in enumerate(self.pieces):
                for parameter in piece:
                    hook = parameter.register_post_accumulate_grad_hook(partial(self._complete, number))
                    hooks.callback(hook.remove)
            yield

    def _complete(self, number: int, parameter: Tensor) -> None:
        self.awaited[number] -= 1
        while len(self.sent) < len(self.pieces) and self.awaited[len(self.sent)] == 0:
            self._send_next()

    def _send_next(self) -> None:
        piece = self.pieces[len(self.sent)]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in piece])
        with _lost_if_broken():
            work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self.sent.append((flat, work))

    def send_rest(self) -> None:
        """Send what no backward pass has completed. Before whatever else all processes do together."""
        while len(self.sent) < len(self.pieces):
            self._send_next()

    def finish(self, loss: Tensor) -> Tensor:
        """Give every parameter its sum; the sum of the processes' losses (scalars).

        A parameter that no process has a gradient of keeps none, so that the optimizer leaves it alone.
        """
        if self.ranks.world == 1:
            return loss
        self.send_rest()
        total = loss.clone()
        with _lost_if_broken():
            dist.all_reduce(total)
            for _, work in self.sent:
                work.wait()
        parameters = [parameter for piece in self.pieces for parameter in piece]
        reached = self.ranks.any(*(parameter.grad is not None for parameter in parameters))
        sums = [one for piece, (flat, _) in zip(self.pieces, self.sent, strict=True) for one in _apart(flat, piece)]
        for parameter, has, added in zip(parameters, reached, sums, strict=True):
            if has:
                parameter.grad = added
        return total


def _pieces(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of parameters of at least PIECE_BYTES, but for the last run."""
    piece: list[nn.Parameter] = []
    for parameter in parameters:
        piece.append(parameter)
        if sum(one.numel() * one.element_size() for one in piece) >= PIECE_BYTES:
            yield piece
            piece = []
    if piece:
        yield piece


def _apart(flat: Tensor, piece: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    """The gradients of a piece's parameters, in their shapes."""
    parts = flat.split([parameter.numel() for parameter in piece])
    return (part.view_as(parameter) for part, parameter in zip(parts, piece, strict=True))


@contextlib.contextmanager
def joined(devices: Sequence[str]) -> Iterator[tuple[Ranks, str]]:
    """This process's place among those that torch.distributed.run started, and its device of `devices`, this machine's.

    A process that was not started so is alone, with the first device.
    """
    if not started_by_torchrun():
        yield ALONE, devices[0]
        return
    local = int(os.environ["LOCAL_RANK"])
    if local >= len(devices):
        raise PipelineError(
            f"torchrun started {os.environ['LOCAL_WORLD_SIZE']} processes here, but `devices` has {len(devices)}; "
            "start as many as there are devices"
        )
    die_with_parent(os.getppid())
    device = devices[local]
    if device != "cpu":
        torch.cuda.set_device(device)
    with _lost_if_broken():  # decisions go between hosts, so that they wait for no GPU
        dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torch.distributed.run started."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextlib.contextmanager
def _lost_if_broken() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(
            "another process of this training is gone; its own message says why; run it again to go on from the last "
            "checkpoint"
        ) from error
