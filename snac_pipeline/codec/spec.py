"""Geometry of a SNAC codec, derived from its config.json alone.

In: the fields of a published config.json. Out: every conversion between samples, latents, coarse frames and tokens;
no other module of the project computes one. Units: samples count at `sampling_rate` unless a rate is given; a latent is
`hop_length` samples; a coarse frame is one token of the first (coarsest) level and the same span of every other level.
"""

import dataclasses
import functools
import itertools
import json
import math
import operator
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

from snac_pipeline.errors import PipelineError

Upsampler = Literal["depthwise", "dense"]
"""How the head at twice the rate is built; see heads.DoubleRateHead."""


@dataclasses.dataclass(frozen=True)
class CodecSpec:
    """Configuration of a codec, with the field names of the published config.json files.

    `output_rates` (Hz) is this project's addition: what the decoder gives back. It is (sampling_rate,) for every
    published model; a model with a second, twice as fast head also lists 2 * sampling_rate. `double_head_upsampler` and
    `double_head_interpolated` say what that head is; where config.json does not, it is the one there was before it
    could. `latent_dim` of None means encoder_dim * 2**len(encoder_rates), the only value the architecture accepts.

    Raises PipelineError when the fields contradict each other.
    """

    sampling_rate: int = 44100
    encoder_dim: int = 64
    encoder_rates: tuple[int, ...] = (3, 3, 7, 7)
    latent_dim: int | None = None
    decoder_dim: int = 1536
    decoder_rates: tuple[int, ...] = (7, 7, 3, 3)
    attn_window_size: int | None = 32
    codebook_size: int = 4096
    codebook_dim: int = 8
    vq_strides: tuple[int, ...] = (8, 4, 2, 1)
    noise: bool = True
    depthwise: bool = True
    output_rates: tuple[int, ...] = ()
    double_head_upsampler: Upsampler = "depthwise"
    double_head_interpolated: bool = True

    def __post_init__(self) -> None:
        for name in ("encoder_rates", "decoder_rates", "vq_strides", "output_rates"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_types()
        width = self.latent_width
        if self.latent_dim is None:
            object.__setattr__(self, "latent_dim", width)
        if not self.output_rates:
            object.__setattr__(self, "output_rates", (self.sampling_rate,))
        self._require(self.latent_dim == width, f"latent_dim must be {width} (encoder_dim * 2**len(encoder_rates))")
        self._require(
            math.prod(self.decoder_rates) == self.hop_length,
            f"decoder_rates multiply to {math.prod(self.decoder_rates)}, encoder_rates to {self.hop_length}",
        )
        self._require(
            all(self.vq_strides[0] % stride == 0 for stride in self.vq_strides),
            f"every one of vq_strides {self.vq_strides} must divide the first",
        )
        allowed = {self.sampling_rate, 2 * self.sampling_rate}
        self._require(set(self.output_rates) <= allowed, f"output_rates {self.output_rates} must be of {allowed} Hz")
        if not self.has_double_head:  # what is said of one means nothing, and makes no other codec
            for name, value in DOUBLE_HEAD.items():
                object.__setattr__(self, name, value)
        halvings = len(self.decoder_rates) + self.has_double_head
        self._require(
            self.decoder_dim % 2**halvings == 0,
            f"decoder_dim {self.decoder_dim} must be divisible by {2**halvings}, "
            "once by 2 for every decoder rate and for a double-rate head",
        )
        if self.attn_window_size is not None:
            widths = (width, self.decoder_dim)
            self._require(all(w % 64 == 0 for w in widths), f"widths {widths} must be multiples of 64 for attention")

    def _check_types(self) -> None:
        """Whole numbers where lengths and widths are counted; JSON allows anything."""

        def whole(value: Any, least: int = 1) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        for name in ("sampling_rate", "encoder_dim", "latent_dim", "decoder_dim", "codebook_size", "codebook_dim"):
            value = getattr(self, name)
            optional = name == "latent_dim" and value is None
            self._require(optional or whole(value), f"{name} must be a positive whole number, not {value!r}")
        for name in ("encoder_rates", "decoder_rates"):
            rates = getattr(self, name)
            # At rate 1 the published padding gives one sample too many.
            holds = len(rates) > 0 and all(whole(rate, 2) for rate in rates)
            self._require(holds, f"{name} must list whole numbers of 2 or more, not {list(rates)}")
        for name, least in (("vq_strides", 1), ("output_rates", 0)):
            values = getattr(self, name)
            holds = len(values) >= least and all(whole(value) for value in values)
            self._require(holds, f"{name} must list positive whole numbers, not {list(values)}")
        window = self.attn_window_size
        self._require(window is None or whole(window), f"attn_window_size must be null or positive, not {window!r}")
        kind = self.double_head_upsampler
        message = f"double_head_upsampler must be depthwise or dense, not {kind!r}"
        self._require(kind in get_args(Upsampler), message)
        for name in ("noise", "depthwise", "double_head_interpolated"):
            value = getattr(self, name)
            self._require(isinstance(value, bool), f"{name} must be true or false, not {value!r}")

    @staticmethod
    def _require(holds: bool, message: str) -> None:
        if not holds:
            raise PipelineError(f"codec config: {message}")

    # ---- config.json -------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, config: dict[str, Any], source: str = "codec config") -> "CodecSpec":
        """Build a spec from config.json's content; unknown or mistyped keys raise PipelineError naming them."""
        if not isinstance(config, dict):
            raise PipelineError(f"{source} must hold one JSON object, the codec's settings")
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise PipelineError(f"{source}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        try:
            return cls(**config)
        except PipelineError as error:
            raise PipelineError(f"{source}: {error}") from error
        except TypeError as error:
            raise PipelineError(f"{source}: a value has the wrong type: {error}") from error

    @classmethod
    def from_file(cls, path: str | Path) -> "CodecSpec":
        """Read a config.json."""
        path = Path(path)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise PipelineError(f"{path} does not exist; a codec folder holds config.json and its weights") from error
        except OSError as error:
            raise PipelineError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise PipelineError(f"{path} is not JSON: {error}") from error
        return cls.from_dict(config, source=str(path))

    def to_dict(self) -> dict[str, Any]:
        """config.json's content; of heads only what is more than the published models' single one."""
        config = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
        if not self.has_double_head:
            for name in ("output_rates", *DOUBLE_HEAD):
                del config[name]
        return config

    def single_head(self) -> "CodecSpec":
        """The same codec with only its published head."""
        return dataclasses.replace(self, output_rates=())

    @property
    def has_double_head(self) -> bool:
        """Whether there is a head at twice the sampling rate."""
        return max(self.output_rates) > self.sampling_rate

    # ---- sizes -------------------------------------------------------------------------------------------------

    @property
    def latent_width(self) -> int:
        """Channels of a latent; what latent_dim is, said or not."""
        width: int = self.encoder_dim * 2 ** len(self.encoder_rates)
        return width

    @functools.cached_property
    def hop_length(self) -> int:
        """Samples per latent."""
        return math.prod(self.encoder_rates)

    @functools.cached_property
    def decoder_samples(self) -> tuple[int, ...]:
        """Samples per latent after each of the decoder's blocks; the last is hop_length."""
        return tuple(itertools.accumulate(self.decoder_rates, operator.mul))

    @property
    def levels(self) -> int:
        """Number of quantizer levels (K)."""
        return len(self.vq_strides)

    @functools.cached_property
    def tokens_per_frame(self) -> tuple[int, ...]:
        """Tokens of each level in one coarse frame, coarsest first, e.g. (1, 2, 4)."""
        return tuple(self.vq_strides[0] // stride for stride in self.vq_strides)

    @property
    def coarse_frame(self) -> int:
        """Samples per coarse frame."""
        return self.hop_length * self.vq_strides[0]

    @property
    def frame_seconds(self) -> float:
        """Seconds per coarse frame."""
        return self.coarse_frame / self.sampling_rate

    @functools.cached_property
    def alignment(self) -> int:
        """Coarse frames in the unit that inputs are padded to; 1 unless attention windows span several."""
        return math.lcm(self.vq_strides[0], self.attn_window_size or 1) // self.vq_strides[0]

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all levels together per second."""
        return sum(self.tokens_per_frame) / self.frame_seconds

    @property
    def bits_per_second(self) -> float:
        """Bitrate of the codes without entropy coding."""
        return self.tokens_per_second * math.log2(self.codebook_size)

    # ---- conversions -------------------------------------------------------------------------------------------

    def frames_for(self, num_samples: int) -> int:
        """Coarse frames that `encode` gives for `num_samples` samples, padding included; at least one unit."""
        unit = self.coarse_frame * self.alignment
        return max(1, math.ceil(num_samples / unit)) * self.alignment

    def padded_length(self, num_samples: int) -> int:
        """Samples after the zero-padding at the right that `encode` does."""
        return self.frames_for(num_samples) * self.coarse_frame

    def samples(self, frames: int, rate: int | None = None) -> int:
        """Samples in `frames` coarse frames at `rate` Hz (default: sampling_rate; else one of output_rates)."""
        return frames * self.coarse_frame * (rate or self.sampling_rate) // self.sampling_rate

    def token_counts(self, frames: int) -> tuple[int, ...]:
        """Tokens per level in `frames` coarse frames."""
        return tuple(frames * n for n in self.tokens_per_frame)

    def output_rate(self, rate: int | None) -> int:
        """`rate` itself, or the first of output_rates where it is None. Raises PipelineError for any other."""
        if rate is not None and rate not in self.output_rates:
            rates = " and ".join(str(known) for known in self.output_rates)
            raise PipelineError(f"this codec decodes to {rates} Hz, not to {rate} Hz")
        return self.output_rates[0 if rate is None else self.output_rates.index(rate)]

    def frames_of(self, token_counts: Sequence[int]) -> int:
        """Coarse frames that hold `token_counts` tokens per level.

        Raises PipelineError for ragged levels (counts that are not one frame number times tokens_per_frame), naming
        what was expected, and for a number of frames that attention windows cannot divide.
        """
        counts = tuple(int(n) for n in token_counts)
        if len(counts) != self.levels:
            raise PipelineError(f"{len(counts)} levels of codes were given; this codec has {self.levels}")
        frames = counts[0]
        if counts != self.token_counts(frames):
            raise PipelineError(
                f"codes of {counts} tokens per level do not cover one span of time: with {frames} coarse frames this "
                f"codec has {self.token_counts(frames)}; codes come from padded audio, see CodecSpec.frames_for"
            )
        if frames % self.alignment:
            raise PipelineError(
                f"{frames} coarse frames do not fill whole attention windows; give a multiple of {self.alignment}"
            )
        return frames

    def segment_frames(self, seconds: float) -> int:
        """Whole units of coarse frames nearest to `seconds`, at least one unit. Raises PipelineError for seconds that
        are no finite number from 0."""
        if not isinstance(seconds, Real) or not 0 <= seconds < math.inf:
            raise PipelineError(f"a duration is a number of seconds from 0, not {seconds!r}")
        unit = self.frame_seconds * self.alignment
        return max(1, round(seconds / unit)) * self.alignment

    # ---- receptive fields --------------------------------------------------------------------------------------

    def _encoder_input(self, low: int, high: int) -> tuple[int, int]:
        """Samples that the encoder's convolutions read for latents low..high, before its last (depthwise) one."""
        for rate in reversed(self.encoder_rates):
            low, high = low * rate - math.ceil(rate / 2), high * rate - math.ceil(rate / 2) + 2 * rate - 1
            low, high = low - RESIDUAL_REACH, high + RESIDUAL_REACH
        return low - 3, high + 3

    @functools.cached_property
    def encoder_reach(self) -> tuple[int, int]:
        """First and last sample, relative to a latent's first, that the latent depends on, attention left aside."""
        return self._encoder_input(-3, 3)

    @functools.cached_property
    def encode_context(self) -> int:
        """Coarse frames of audio on each side that make a crop's codes equal those of the whole, in whole units."""
        stride = self.vq_strides[0]
        low, high = self._encoder_input(*self._whole_windows(-3, stride * self.alignment - 1 + 3))
        span = self.coarse_frame * self.alignment
        return self._whole_units(math.ceil(max(-low, high - span + 1) / self.coarse_frame))

    @functools.cached_property
    def decode_context(self) -> int:
        """Coarse frames of codes on each side that make a crop's audio equal that of the whole, in whole units.

        Walks the decoder from its output to its codes. With attention the crop must start on a window and the
        context is whole windows, since a window's every output depends on its every input.
        """
        low, high = 0, self.coarse_frame * self.alignment - 1
        if self.has_double_head:
            low, high = low - HEAD_REACH, high + HEAD_REACH
        low, high = low - 3, high + 3
        for rate in reversed(self.decoder_rates):
            low, high = low - RESIDUAL_REACH, high + RESIDUAL_REACH
            pad = math.ceil(rate / 2)
            low, high = -((-(low + pad - 2 * rate + 1)) // rate), (high + pad) // rate
        low, high = self._whole_windows(low, high)
        low, high = low - 3, high + 3
        stride, unit = self.vq_strides[0], self.alignment
        return self._whole_units(max(-(low // stride), high // stride - unit + 1))

    def _whole_windows(self, low: int, high: int) -> tuple[int, int]:
        """The span of whole attention windows that holds latents low..high; itself without attention."""
        window = self.attn_window_size or 1
        return low // window * window, (high // window + 1) * window - 1

    def _whole_units(self, frames: int) -> int:
        return math.ceil(frames / self.alignment) * self.alignment


DOUBLE_HEAD = {field.name: field.default for field in dataclasses.fields(CodecSpec) if "double_head" in field.name}
"""The fields about the head at twice the rate, with what an old config.json means."""

RESIDUAL_REACH = 3 * (1 + 3 + 9)
"""Samples on each side that the three residual units (kernel 7, dilations 1, 3, 9) of a block look at."""

HEAD_REACH = 64
"""Samples at sampling_rate on each side that bound what the 2x head looks at (tested against the module)."""
