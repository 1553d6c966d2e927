"""The SNAC codec: model, geometry, heads, streams, loading and saving."""

from snac_pipeline.codec.heads import double_rate
from snac_pipeline.codec.hub import weights_digest
from snac_pipeline.codec.model import SNAC
from snac_pipeline.codec.noise import Noise, NoiseMode
from snac_pipeline.codec.spec import CodecSpec
from snac_pipeline.codec.streaming import decode_stream, encode_stream

__all__ = ["SNAC", "CodecSpec", "Noise", "NoiseMode", "decode_stream", "double_rate", "encode_stream", "weights_digest"]
