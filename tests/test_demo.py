"""What `snac-pipeline demo` ends with: the headline metric by its own name, unit and direction."""

import pytest

from snac_pipeline.demo import print_summary

ROW = {"model": "decoder_24khz", "sample_rate": 24_000, "verdict": "better"}
REST = {
    "utterances": 8, "resampled_references": False, "hours": 0.1, "tokens": 1000, "bpe_ratio": 1.1, "report": "r",
    "checkpoints": {}, "codes": "c",
}  # fmt: skip


@pytest.mark.parametrize(
    ("headline", "figures", "words"),
    [
        (("Mel distance", "dB", False), (5.0, -1.0, -1.5, -0.5), ("Mel distance, dB", "+20.0 %", "+10.0 .. +30.0 %")),
        (("SI-SDR", "dB", True), (-5.0, 1.0, 0.5, 1.5), ("SI-SDR, dB", "+1.000", "+0.500 .. +1.500")),
        (("ESTOI", "", True), (0.5, -0.1, -0.2, 0.1), ("ESTOI", "-0.100", "-0.200 .. +0.100")),
    ],
    ids=["distance", "ratio", "index"],
)
def test_an_improvement_is_positive_whichever_way_the_metric_is_better(headline, figures, words, capsys):
    label, unit, higher = headline
    base, difference, low, high = figures
    row = {**ROW, "mean": base + difference, "baseline_mean": base, "difference": difference, "low": low, "high": high}
    alone = {**ROW, "model": "base", "mean": None, "baseline_mean": None, "difference": None, "low": None, "high": None}
    print_summary(
        {**REST, "headline": {"label": label, "unit": unit, "higher_is_better": higher}, "decoders": [alone, row]}
    )
    said = capsys.readouterr().out
    assert all(word in said for word in words), said
