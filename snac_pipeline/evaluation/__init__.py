"""Which decoder is better, by how much, and how sure one can be."""

from snac_pipeline.evaluation.codebook import CodeMetric, code_metrics, codebook_use, used_codes
from snac_pipeline.evaluation.compare import Contestant, Stage, Utterance, compare, resampled_name
from snac_pipeline.evaluation.listening import Clip, Example, choose_examples, listening_examples
from snac_pipeline.evaluation.measuring import Measured, measure_all
from snac_pipeline.evaluation.registry import METRICS, NOT_FINITE, NOT_RUN, Metric, measure, not_run
from snac_pipeline.evaluation.report import (
    PICTURES,
    REPORT_FILE,
    ReportContext,
    render_report,
    summary_facts,
    write_report,
)
from snac_pipeline.evaluation.scorers import own_metrics, own_metrics_identity, try_own_metrics
from snac_pipeline.evaluation.summary import (
    HEADLINE_METRIC,
    MIN_PAIRS,
    TOO_FEW,
    WORSE,
    Headline,
    bootstrap_interval,
    headlines,
    missing_values,
    paired_differences,
    summarise,
    worst_utterances,
)

__all__ = [
    "HEADLINE_METRIC", "METRICS", "MIN_PAIRS", "NOT_FINITE", "NOT_RUN", "PICTURES", "REPORT_FILE", "TOO_FEW",
    "WORSE", "Clip", "CodeMetric", "Contestant", "Example", "Headline", "Measured", "Metric", "ReportContext",
    "Stage", "Utterance", "bootstrap_interval", "choose_examples", "code_metrics", "codebook_use", "compare",
    "headlines", "listening_examples", "measure", "measure_all", "missing_values", "not_run", "own_metrics",
    "own_metrics_identity", "paired_differences", "render_report", "resampled_name", "summarise", "summary_facts",
    "try_own_metrics", "used_codes", "worst_utterances", "write_report",
]  # fmt: skip
