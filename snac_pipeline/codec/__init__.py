"""The SNAC codec: model, geometry, heads, loading and saving."""

from snac_pipeline.codec.heads import double_rate
from snac_pipeline.codec.hub import weights_digest
from snac_pipeline.codec.model import SNAC
from snac_pipeline.codec.noise import Noise, NoiseMode
from snac_pipeline.codec.spec import CodecSpec

__all__ = ["SNAC", "CodecSpec", "Noise", "NoiseMode", "double_rate", "weights_digest"]
