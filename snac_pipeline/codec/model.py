"""SNAC, the multi-scale neural audio codec: audio -> hierarchical codes -> audio.

Drop-in for the class of the same name in the PyPI package `snac` (Siuzdak et al., 2024): same state-dict keys, same
codes, same audio under the same noise. Beyond it: noise as an argument, exact crops, and a second head at twice the
rate. Axes: B batch, C channels, T samples, L latents, K levels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snac_pipeline.codec import hub
from snac_pipeline.codec.checks import check_audio, check_counter, check_length, check_levels
from snac_pipeline.codec.heads import DoubleRateHead
from snac_pipeline.codec.layers import DecoderBlock, EncoderBlock, LocalAttention, Snake, conv, masked
from snac_pipeline.codec.noise import Noise, NoiseMode
from snac_pipeline.codec.quantizer import Quantized, ResidualQuantizer
from snac_pipeline.codec.spec import CodecSpec
from snac_pipeline.errors import PipelineError


class Encoder(nn.Module):
    """(B, 1, T) -> (B, latent_dim, T / hop_length)."""

    def __init__(self, spec: CodecSpec):
        super().__init__()
        layers: list[nn.Module] = [conv(1, spec.encoder_dim, kernel_size=7, padding=3)]
        channels = spec.encoder_dim
        for rate in spec.encoder_rates:
            layers.append(EncoderBlock(channels, rate, spec.depthwise))
            channels *= 2
        if spec.attn_window_size is not None:
            layers.append(LocalAttention(channels, spec.attn_window_size))
        groups = channels if spec.depthwise else 1
        layers.append(conv(channels, channels, kernel_size=7, padding=3, groups=groups))
        self.block = nn.Sequential(*layers)
        self.hop_length = spec.hop_length

    def forward(self, audio_B1T: Tensor, latents_B: Tensor | None = None) -> Tensor:
        """latents_B: how many latents of each item are kept. Up to there they are those that it has alone, whatever
        follows; the rest mean nothing. None: all."""
        ends, samples_per_latent, x = Ends(latents_B), self.hop_length, audio_B1T
        for module in self.block:
            mask = ends.mask(x, samples_per_latent)
            if isinstance(module, EncoderBlock):
                x = module(x, mask)
                samples_per_latent //= module.stride
            else:
                x = module(masked(x, mask))
        return x


class Ends:
    """Where the items of a batch end, in latents (B,), as masks at every rate; None where all are whole."""

    def __init__(self, latents_B: Tensor | None):
        self.latents_B = latents_B

    def mask(self, x_BCT: Tensor, samples_per_latent: int, stride: int = 1) -> Tensor | None:
        """(B, 1, T * stride): 1 where an item has samples, for x or for what is `stride` times as long."""
        if self.latents_B is None:
            return None
        positions = torch.arange(x_BCT.shape[-1] * stride, device=x_BCT.device)
        return (positions < self.latents_B[:, None, None] * samples_per_latent).to(x_BCT.dtype)


class Decoder(nn.Module):
    """(B, latent_dim, L) -> (B, 1, L * hop_length) at sampling_rate, through features that a second head can share."""

    def __init__(self, spec: CodecSpec):
        super().__init__()
        latent, width = spec.latent_width, spec.decoder_dim
        layers: list[nn.Module]
        if spec.depthwise:
            layers = [conv(latent, latent, kernel_size=7, padding=3, groups=latent), conv(latent, width, kernel_size=1)]
        else:
            layers = [conv(latent, width, kernel_size=7, padding=3)]
        if spec.attn_window_size is not None:
            layers.append(LocalAttention(width, spec.attn_window_size))
        for rate in spec.decoder_rates:
            layers.append(DecoderBlock(width, rate, spec.noise, spec.depthwise))
            width //= 2
        layers += [Snake(width), conv(width, 1, kernel_size=7, padding=3), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, latents_BCL: Tensor, noise: Noise | None = None) -> Tensor:
        return self.head(self.features(latents_BCL, noise or Noise("upstream"), Ends(None)))

    def features(self, latents_BCL: Tensor, noise: Noise, ends: Ends) -> Tensor:
        """(B, latent_dim, L) -> (B, decoder_dim / 2**blocks, T): what the heads start from."""
        x, index, samples_per_latent = masked(latents_BCL, ends.mask(latents_BCL, 1)), 0, 1
        for module in self.trunk:
            if isinstance(module, DecoderBlock):
                before = ends.mask(x, samples_per_latent)
                samples_per_latent *= module.stride
                after = ends.mask(x, samples_per_latent, module.stride)
                x = module(x, noise, index, samples_per_latent, (before, after))
                index += 1
            else:
                x = module(x)
        return x

    def head(self, features_BCT: Tensor, mask_B1T: Tensor | None = None) -> Tensor:
        """The published head (Snake, conv, tanh): features -> (B, 1, T), in the parameters' type: bfloat16 has too few
        digits for a waveform."""
        snake, last, squash = self.model[-3:]
        audio: Tensor = squash(last(masked(snake(features_BCT), mask_B1T).to(next(last.parameters()).dtype)))
        return audio

    @property
    def trunk(self) -> nn.Sequential:
        """Everything before the published head."""
        return self.model[:-3]


class SNAC(nn.Module):
    """A SNAC codec of any geometry.

    Build it with `SNAC.from_pretrained`, `SNAC.from_config`, `SNAC(spec)`, or, like the upstream class, with the
    fields of config.json as keywords.
    """

    def __init__(self, spec: CodecSpec | None = None, **config: Any):
        super().__init__()
        self.spec = spec or CodecSpec.from_dict(config)
        for name in (
            *("sampling_rate", "hop_length", "encoder_dim", "latent_dim", "decoder_dim"),
            *("codebook_size", "codebook_dim", "attn_window_size"),
        ):
            setattr(self, name, getattr(self.spec, name))
        for name in ("encoder_rates", "decoder_rates", "vq_strides"):
            setattr(self, name, list(getattr(self.spec, name)))
        self.n_codebooks = self.spec.levels
        self.encoder = Encoder(self.spec)
        self.quantizer = ResidualQuantizer(self.spec)
        self.decoder = Decoder(self.spec)
        if self.spec.has_double_head:
            width = self.spec.decoder_dim // 2 ** len(self.spec.decoder_rates)
            form = self.spec.double_head_upsampler, self.spec.double_head_interpolated
            self.double_rate_head = DoubleRateHead(width, self.spec.depthwise, *form)

    # ---- loading and saving ------------------------------------------------------------------------------------

    @classmethod
    def from_config(cls, config: str | Path | dict[str, Any]) -> "SNAC":
        """A randomly initialised codec from a config.json (path) or its content (dict)."""
        return cls(CodecSpec.from_dict(config) if isinstance(config, dict) else CodecSpec.from_file(config))

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> "SNAC":
        """Load a codec, in eval mode, from a folder or a Hugging Face hub id; options as in `hub.resolve`.

        Raises PipelineError in one sentence when the source does not exist, cannot be reached, or its weights do not
        fit its config.
        """
        folder = hub.resolve(source, **options)
        model = cls(CodecSpec.from_file(folder / "config.json"))
        hub.load_weights(model, folder)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write config.json and model.safetensors, atomically as one folder."""
        return hub.save(self, Path(folder))

    # ---- audio -> codes ----------------------------------------------------------------------------------------

    def preprocess(self, audio_B1T: Tensor) -> Tensor:
        """Zero-pad at the right to whole units of coarse frames. Raises PipelineError for what is no (B, 1, T) audio in
        the codec's type."""
        check_audio(audio_B1T, next(self.encoder.parameters()).dtype)
        length = audio_B1T.shape[-1]
        return F.pad(audio_B1T, (0, self.spec.padded_length(length) - length))

    def encode(self, audio_B1T: Tensor) -> list[Tensor]:
        """Codes of audio at sampling_rate: one int64 tensor (B, F * tokens_per_frame[k]) for each level.

        Items of a batch get the codes they would get alone when they have the same padded length and each is padded
        with zeros to it, as `preprocess` does. Raises PipelineError where that does.
        """
        return self.quantize(audio_B1T).codes

    def quantize(self, audio_B1T: Tensor, rounded: bool = True) -> Quantized:
        """`encode` with the quantized latents and what training from scratch needs."""
        quantized: Quantized = self.quantizer(self.encoder(self.preprocess(audio_B1T)), rounded)
        return quantized

    # ---- codes -> audio ----------------------------------------------------------------------------------------

    def decode(
        self,
        codes: Sequence[Tensor],
        length: int | None = None,
        *,
        output_rate: int | None = None,
        noise: NoiseMode = "upstream",
        seed: int | Tensor = 0,
        start_frame: int | Tensor = 0,
    ) -> Tensor:
        """Audio (B, 1, T) of codes, one (B, n_k) integer tensor for each level.

        length: samples of the original at sampling_rate, no more than the codes have; the output is cut to the same
        duration.
        output_rate: one of spec.output_rates (Hz); the first when None.
        noise, seed, start_frame: see codec.noise; start_frame is the crop's first coarse frame in its utterance.
        Raises PipelineError for ragged or out-of-range codes, unknown rates, and arguments of another kind.
        """
        rate = self.spec.output_rate(output_rate)
        latents = self.dequantize(codes)
        check_length(length, held=latents.shape[-1] * self.spec.hop_length)
        check_counter(seed, "seed", batch=len(latents))
        check_counter(start_frame, "start_frame", batch=len(latents))
        start = torch.as_tensor(start_frame) * self.spec.vq_strides[0]
        audio = self.synthesize(latents, Noise(noise, seed, start), (rate,))[rate]
        return audio if length is None else audio[..., : length * rate // self.spec.sampling_rate]

    def dequantize(self, codes: Sequence[Tensor]) -> Tensor:
        """Latents (B, C, L) of codes; raises PipelineError for ragged levels and codes outside the codebook."""
        check_levels(codes, self.spec)
        if self.spec.frames_of([level.shape[-1] for level in codes]) == 0:
            raise PipelineError("there are no codes to decode: every level has 0 frames")
        codes = [level.long() for level in codes]
        for k, level in enumerate(codes):
            if level.numel() and not 0 <= int(level.min()) <= int(level.max()) < self.spec.codebook_size:
                raise PipelineError(
                    f"codes of level {k} span {int(level.min())}..{int(level.max())}; "
                    f"this codebook has 0..{self.spec.codebook_size - 1}"
                )
        return self.quantizer.from_codes(codes)

    def synthesize(
        self,
        latents_BCL: Tensor,
        noise: Noise,
        rates: Sequence[int],
        *,
        detach_native: bool = False,
        frames_B: Tensor | None = None,
    ) -> dict[int, Tensor]:
        """Audio (B, 1, T) at each of `rates` from quantized latents, sharing the trunk.

        detach_native: keep the double-rate head's loss out of the sampling_rate output that it starts from.
        frames_B: coarse frames that each item really has. Up to there its audio is what decoding it alone gives,
        whatever the latents after that are; the rest means nothing. None: all have all.
        """
        ends = Ends(None if frames_B is None else frames_B * self.spec.vq_strides[0])
        features = self.decoder.features(latents_BCL, noise, ends)
        mask = ends.mask(features, self.spec.hop_length)
        native = self.decoder.head(features, mask)
        outputs = {}
        for rate in rates:
            if rate == self.spec.sampling_rate:
                outputs[rate] = native
            else:
                start = native.detach() if detach_native else native
                outputs[rate] = self.double_rate_head(features, masked(start, mask), mask)
        return outputs

    def forward(self, audio_B1T: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Reconstruct audio: (audio of the input's length, codes), with upstream's noise."""
        quantized = self.quantize(audio_B1T)
        rate = self.spec.output_rates[0]
        audio = self.synthesize(quantized.latents_BCL, Noise("upstream"), (rate,))[rate]
        return audio[..., : audio_B1T.shape[-1] * rate // self.spec.sampling_rate], quantized.codes
