"""The published geometries, and thin models of the same shape for fast tests."""

from snac_pipeline.codec import CodecSpec

PUBLISHED = {
    "24khz": CodecSpec(
        sampling_rate=24000, encoder_dim=48, encoder_rates=(2, 4, 8, 8), decoder_dim=1024, decoder_rates=(8, 8, 4, 2),
        attn_window_size=None, vq_strides=(4, 2, 1),
    ),
    "32khz": CodecSpec(
        sampling_rate=32000, encoder_dim=64, encoder_rates=(2, 3, 8, 8), decoder_dim=1536, decoder_rates=(8, 8, 3, 2),
        attn_window_size=32, vq_strides=(8, 4, 2, 1),
    ),
    "44khz": CodecSpec(
        sampling_rate=44100, encoder_dim=64, encoder_rates=(2, 3, 8, 8), decoder_dim=1536, decoder_rates=(8, 8, 3, 2),
        attn_window_size=32, vq_strides=(8, 4, 2, 1),
    ),
}  # fmt: skip
