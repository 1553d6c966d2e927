"""The codec as a tool: files of audio to files of codes and back, one or a folder of them."""

from snac_pipeline.tool.convert import Options, decode, encode, generate, reconstruct

__all__ = ["Options", "decode", "encode", "generate", "reconstruct"]
