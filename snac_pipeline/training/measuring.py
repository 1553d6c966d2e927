"""The held-out side of the loop: before the first step, after every epoch, and what has come of it all in the end.

In: the training, the held-out utterances and the plan. Out: baseline_metrics.json, best/ and the figures of the result.
"""

from pathlib import Path
from typing import Any

from snac_pipeline.codec import hub
from snac_pipeline.training.baselines import Baselines, outcome
from snac_pipeline.training.journal import Journal, in_words
from snac_pipeline.training.model import output_rates
from snac_pipeline.training.plan import Plan, Span
from snac_pipeline.training.state import Training
from snac_pipeline.training.tracking import NoTracker
from snac_pipeline.training.validation import HeldOut, UtteranceLosses, improvement, means

LISTENED = 2
"""Held-out utterances that a tracker gets to hear."""


class Measuring:
    """Begun while the model is still the starting one, whose losses are measured once and kept in the run folder."""

    def __init__(self, training: Training, held_out: HeldOut, plan: Plan, run: Path, journal: Journal):
        self.training, self.held_out, self.run, self.journal = training, held_out, run, journal
        self.recipe, self.spans = training.recipe, plan.spans()
        self.final: UtteranceLosses | None = None
        file, first_does = run / "baseline_metrics.json", training.ranks.first_does
        if first_does(file.exists):
            self.baselines = Baselines.read(file)
        else:
            self.baselines = Baselines.measured(training.model, self.recipe, held_out, self.spans)
            first_does(lambda: self.baselines.write(file, self.spans))
            before = _told(self.baselines.whole, self.baselines.noise_gain)
            journal.say(f"before training: held-out {in_words(before)}", **before)
        if self.baselines.noise_gain:  # a checkpoint's history has it already, and takes the place of this one
            training.progress.history.append({"step": 0, "noise_gain": self.baselines.noise_gain})

    def after(self, epoch: int) -> None:
        """Measure the model, or its average: the span that ends here, and the whole when it is the epoch's turn."""
        with self.training.average.in_place():
            for span, baseline in zip(self.spans, self.baselines.spans, strict=True):
                if span.last == epoch:
                    self._end(span, baseline)
            if (epoch + 1) % self.recipe.validation.every_epochs == 0 or epoch + 1 == self.recipe.epochs:
                self.final, noise_gain = self.held_out.measure_with_noise(self.training.model, self.recipe)
                self.journal.measured(self.training.progress, _told(self.final, noise_gain))
                self._play()
                self._keep_if_best(self.final)

    def result(self) -> dict[str, Any]:
        """The run's figures. Leaves in the model the weights that they are of: the last, averaged, or the best."""
        self.training.average.settle()
        if self.recipe.keep_best:
            hub.load_weights(self.training.model, self.run / "best")
            self.final = self.held_out.measure(self.training.model, self.recipe)
        assert self.final is not None, "the last epoch is measured, also by a run that was stopped after its last step"
        whole, final = self.baselines.whole, self.final
        changes = {rate: improvement(whole[rate], final[rate]) for rate in final}
        return {
            "steps": self.training.progress.step,
            "model_is": "best" if self.recipe.keep_best else "final",
            "baseline": means(whole),
            "final": means(final),
            "improvement": {rate: change.mean for rate, change in changes.items()},
            "improvement_interval": {rate: [change.low, change.high] for rate, change in changes.items()},
            "stages": self.training.progress.stages,
            "best": self.training.progress.best,
        }

    def _end(self, span: Span, baseline: UtteranceLosses) -> None:
        """Note what training has gained by the end of a span."""
        gain = outcome(span, baseline, self.held_out.measure(self.training.model, self.recipe, span.segment))
        self.training.progress.stages.append(gain)
        loss = gain["loss"]
        self.journal.say(
            f"{span.stage}, epochs {span.first + 1} to {span.last + 1} of {span.seconds:g} s: held-out loss "
            f"{loss['final']:.4f}, {loss['improvement']:+.1%} on the starting point's {loss['baseline']:.4f}"
        )

    def _keep_if_best(self, losses: UtteranceLosses) -> None:
        """Keep the model in best/ when its held-out loss, the heads weighed as `heads` says, is the least so far."""
        model, progress = self.training.model, self.training.progress
        rates = output_rates(self.recipe, model.spec)
        loss = sum(head.weight * float(losses[rates[name]].mean()) for name, head in self.recipe.heads.items())
        if progress.best is None or loss < progress.best["loss"]:
            progress.best = {"epoch": progress.epoch + 1, "step": progress.step, "loss": loss}
            self.training.ranks.first_does(lambda: model.save_pretrained(self.run / "best"))

    def _play(self) -> None:
        """Let the tracker hear the first held-out utterances."""
        tracker = self.journal.tracker
        if isinstance(tracker, NoTracker):
            return
        for row in range(min(LISTENED, len(self.held_out.frames))):
            for rate, audio in self.held_out.listen(self.training.model, self.recipe, row).items():
                tracker.log_audio(self.training.progress.step, f"held_out_{row}_{rate}", audio, rate)


def _told(losses: UtteranceLosses, noise_gain: list[float]) -> dict[str, Any]:
    """A measurement as the history has it: mean losses by name (val_<rate>), and the noise_gain, if there is noise."""
    named: dict[str, Any] = {f"val_{rate}": value for rate, value in means(losses).items()}
    return {**named, "noise_gain": noise_gain} if noise_gain else named
