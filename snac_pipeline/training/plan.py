"""A training, planned: which slices, how many steps, and where stages and lessons begin and end.

In: a recipe, a codec's geometry, the lengths of the training utterances. Out: pure functions of the epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from snac_pipeline.codec import SNAC
from snac_pipeline.errors import PipelineError
from snac_pipeline.training.data import SpeechSlices
from snac_pipeline.training.model import output_rates
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.slices import Slice, batches_per_epoch, plan_epoch


@dataclass
class Speech:
    """What a run trains on: a dataset, the coarse frames of each of its utterances, and their digests."""

    dataset: SpeechSlices
    frames: np.ndarray
    digests: list[str]


class Span(NamedTuple):
    """Consecutive epochs of one stage and one lesson: one set of head weights, one segment length."""

    stage: str
    first: int
    """Its first epoch, from 0."""
    epochs: int
    seconds: float
    """Of its segments, as the recipe has it."""
    segment: int
    """Coarse frames of its segments."""
    weights: dict[int, float]
    """Of each output rate's loss."""

    @property
    def last(self) -> int:
        """Its last epoch, from 0."""
        return self.first + self.epochs - 1


class Plan:
    """The recipe's curriculum on this model and speech: segments, batches, steps."""

    def __init__(self, recipe: Recipe, model: SNAC, speech: Speech):
        self.recipe, self.spec, self.frames = recipe, model.spec, speech.frames
        exact, unit = self.spec.decode_context, self.spec.alignment
        self.context = exact if recipe.context_frames is None else recipe.context_frames
        if self.context % unit:
            raise PipelineError(
                f"context_frames {self.context} does not fill whole attention windows; give a multiple of {unit}"
            )
        self._newest: tuple[int, list[list[list[Slice]]]] = (-1, [])
        self.steps = sum(self.steps_in(epoch) for epoch in range(recipe.epochs))

    def segment(self, epoch: int) -> int:
        """Supervised coarse frames of a slice."""
        return self.spec.segment_frames(self.recipe.lesson_at(epoch)[0].seconds)

    def batch_size(self, epoch: int) -> int:
        """Slices in a batch."""
        return self.recipe.lesson_at(epoch)[0].batch_of(self.recipe.batch_size)

    def steps_in(self, epoch: int) -> int:
        """Steps of the optimizer in the epoch: one for every `accumulate` batches, and one for what is left over."""
        batches = batches_per_epoch(self.frames, self.segment(epoch), self.batch_size(epoch))
        return -(-batches // self.recipe.accumulate)

    def epoch(self, epoch: int) -> list[list[list[Slice]]]:
        """The epoch's steps, each the batches of slices that it accumulates.

        The newest is kept: who reads ahead asks for an epoch first, and the loop soon after.
        """
        newest, steps = self._newest
        if newest != epoch:
            steps = self._epoch(epoch)
            self._newest = epoch, steps
        return steps

    def _epoch(self, epoch: int) -> list[list[list[Slice]]]:
        batches = plan_epoch(
            self.frames,
            self.segment(epoch),
            self.context,
            self.batch_size(epoch),
            self.spec.alignment,
            self.recipe.seed,
            epoch,
        )
        together = self.recipe.accumulate
        return [batches[i : i + together] for i in range(0, len(batches), together)]

    def batches_from(self, epoch: int, step: int) -> Iterator[list[Slice]]:
        """All batches from `step` of `epoch` to the last epoch's end."""
        for later in range(epoch, self.recipe.epochs):
            for batches in self.epoch(later)[step if later == epoch else 0 :]:
                yield from batches

    def stage_steps(self, epoch: int) -> tuple[int, int]:
        """Steps of the epoch's stage, and how many of them are before the epoch."""
        stage, first = self.recipe.stage_at(epoch)
        steps = [self.steps_in(e) for e in range(first, first + stage.epochs)]
        return sum(steps), sum(steps[: epoch - first])

    def audio_seconds(self, epoch: int) -> float:
        """Supervised audio of the epoch."""
        return int(np.maximum(1, self.frames // self.segment(epoch)).sum()) * self.slice_seconds(epoch)

    def slice_seconds(self, epoch: int) -> float:
        """Supervised audio of one slice of the epoch."""
        return self.segment(epoch) * self.spec.frame_seconds

    def audio_seconds_left(self, epoch: int, step: int) -> float:
        """Supervised audio that is still to come when `step` steps of `epoch` are done."""
        rest = self.audio_seconds(epoch) * (1 - step / self.steps_in(epoch))
        return rest + sum(self.audio_seconds(e) for e in range(epoch + 1, self.recipe.epochs))

    def span_at(self, epoch: int) -> Span:
        """The span of `epoch`."""
        return next(span for span in self.spans() if span.first <= epoch <= span.last)

    def spans(self) -> list[Span]:
        """The curriculum in order, one span for each stage and lesson that meet."""
        spans: list[Span] = []
        rates = output_rates(self.recipe, self.spec)
        for epoch in range(self.recipe.epochs):
            (stage, stage_first), (lesson, lesson_first) = self.recipe.stage_at(epoch), self.recipe.lesson_at(epoch)
            if epoch in (stage_first, lesson_first):
                weights = {rates[name]: weight for name, weight in self.recipe.head_weights(epoch).items()}
                spans.append(Span(stage.name, epoch, 1, lesson.seconds, self.segment(epoch), weights))
            else:
                spans[-1] = spans[-1]._replace(epochs=spans[-1].epochs + 1)
        return spans
