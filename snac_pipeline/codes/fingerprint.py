"""What makes two encoders the same: the fingerprint that names a folder of codes."""

from typing import Any

from snac_pipeline.codec import SNAC, weights_digest
from snac_pipeline.corpus.audio import MONO_RULE, RESAMPLER
from snac_pipeline.files import value_digest
from snac_pipeline.settings import Precision

ENCODER_REVISION = 1
"""Raised when a change of this code changes codes."""

ENCODER_FIELDS = (
    "sampling_rate",
    "encoder_dim",
    "encoder_rates",
    "attn_window_size",
    "codebook_size",
    "codebook_dim",
    "vq_strides",
    "depthwise",
)


def encoder_identity(model: SNAC, precision: Precision = "fp32") -> dict[str, Any]:
    """Everything that a code depends on besides the audio's bytes. torch and device are not in it: see verify."""
    config = model.spec.to_dict()
    return {
        "weights": weights_digest(model.state_dict(), ("encoder.", "quantizer.")),
        "config": {name: config[name] for name in ENCODER_FIELDS},
        "resampler": RESAMPLER,
        "mono": MONO_RULE,
        "precision": precision,
        "revision": ENCODER_REVISION,
    }


def encoder_fingerprint(model: SNAC, precision: Precision = "fp32") -> str:
    """16 hexadecimal digits that name `encoder_identity`."""
    return value_digest(encoder_identity(model, precision))[:16]
