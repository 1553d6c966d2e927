"""The gradients of Snake and the depthwise convolutions, eager and fused, and quantization's straight-through step."""

import shutil

import pytest
import torch
from geometries import PUBLISHED, build, relative_error, thin, white

from snac_pipeline.codec import kernels
from snac_pipeline.codec.kernels import SnakeFunction
from snac_pipeline.codec.layers import Snake

needs_compiler = pytest.mark.skipif(
    not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler here"
)
ALPHAS = {"usual": (0.5, 1.0, 3.0), "negative": (-2.0, -0.5, 0.7), "tiny": (1e-4, -1e-4, 1e-2)}


def inputs(alphas, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 7, generator=generator, dtype=dtype).requires_grad_()
    return x, torch.tensor(alphas, dtype=dtype).reshape(1, 3, 1).requires_grad_()


def naive(x, alpha):
    return x + (1.0 / (alpha + 1e-9)) * torch.sin(alpha * x).pow(2)


@pytest.fixture
def eager_again(monkeypatch):
    """Whatever a test fuses, the eager kernels are back after it."""
    monkeypatch.setattr(kernels, "kernels", kernels.kernels)
    monkeypatch.setattr(kernels, "fused", kernels.fused)
    monkeypatch.setattr(kernels, "snake_without_gradients", kernels.snake_without_gradients)


@pytest.mark.parametrize("alphas", ALPHAS.values(), ids=list(ALPHAS))
def test_snake_s_gradient_is_that_of_finite_differences(alphas):
    assert not kernels.fused
    assert torch.autograd.gradcheck(SnakeFunction.apply, inputs(alphas))


@pytest.mark.parametrize("alphas", ALPHAS.values(), ids=list(ALPHAS))
def test_snake_and_its_gradient_are_those_of_plain_autograd(alphas):
    x, alpha = inputs(alphas)
    weight = torch.randn(2, 3, 7, dtype=torch.float64)
    ours = torch.autograd.grad((SnakeFunction.apply(x, alpha) * weight).sum(), (x, alpha))
    plain = torch.autograd.grad((naive(x, alpha) * weight).sum(), (x, alpha))
    torch.testing.assert_close(SnakeFunction.apply(x, alpha), naive(x, alpha))
    torch.testing.assert_close(ours, plain)


def test_an_alpha_of_zero_gives_the_input_and_finite_gradients():
    x, alpha = inputs((0.0, 0.0, 0.0))
    y = SnakeFunction.apply(x, alpha)
    y.sum().backward()
    assert torch.equal(y, x) and torch.equal(x.grad, torch.ones_like(x)) and alpha.grad.isfinite().all()


def test_snake_gives_one_value_with_and_without_gradients_and_keeps_its_input():
    x, _ = inputs(ALPHAS["usual"])
    module, copy = Snake(3).double(), x.detach().clone()
    trained = module(x)
    with torch.no_grad():
        assert torch.equal(module(x), trained)
    assert torch.equal(x, copy)


def test_snake_saves_only_its_input_and_alpha():
    x, alpha = inputs(ALPHAS["usual"])
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        SnakeFunction.apply(x, alpha)
    assert sorted(t.data_ptr() for t in saved) == sorted((x.data_ptr(), alpha.data_ptr()))


@pytest.mark.parametrize("dilation", kernels.DILATIONS)
@pytest.mark.parametrize("length", [1, 20, 64])
def test_depthwise_kernels_are_torch_s_convolution_and_its_gradients(dilation, length):
    x, weight = torch.randn(2, 3, length, dtype=torch.float64), torch.randn(3, 1, 7, dtype=torch.float64)
    tensors = [t.requires_grad_() for t in (x, weight, torch.randn(3, dtype=torch.float64))]
    grad = torch.randn(2, 3, length, dtype=torch.float64)
    ours = kernels.DepthwiseFunction.apply(*tensors, dilation)
    plain = torch.nn.functional.conv1d(*tensors, padding=3 * dilation, dilation=dilation, groups=3)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours, tensors, grad), torch.autograd.grad(plain, tensors, grad))


@pytest.mark.slow  # 40 s where torch has not compiled these kernels before, 10 s where it has
@needs_compiler
def test_fused_kernels_train_alike_and_leave_inference_and_the_generator_alone(eager_again):
    codec = build(thin(PUBLISHED["24khz"]))
    audio = white(2 * codec.spec.coarse_frame, batch=2)

    def train():
        codec.zero_grad()
        torch.manual_seed(1)
        output = codec(audio)[0]
        output.square().mean().backward()
        return {"": output.detach()} | {k: p.grad.clone() for k, p in codec.named_parameters() if p.grad is not None}

    def infer():
        torch.manual_seed(1)
        with torch.no_grad():
            return codec(audio)[0]

    eager, inferred = train(), infer()
    before = torch.get_rng_state()
    kernels.fuse_kernels()
    assert kernels.fused
    assert torch.equal(torch.get_rng_state(), before), "a run's seeded numbers must not depend on the kernels"
    fused = train()
    assert fused.keys() == eager.keys()
    assert relative_error(fused.pop(""), eager.pop("")) < 1e-5
    # Gradients that cancel to almost nothing are compared with the largest of their kind.
    for name, expected in eager.items():
        scale = max(float(g.abs().max()) for k, g in eager.items() if k.split(".")[-1] == name.split(".")[-1])
        torch.testing.assert_close(fused[name], expected, rtol=1e-3, atol=1e-5 * scale, msg=name)
    assert torch.equal(infer(), inferred)
    x, alpha = inputs(ALPHAS["usual"], torch.float32)
    torch.testing.assert_close(SnakeFunction.apply(x, alpha), naive(x, alpha), rtol=1e-5, atol=1e-5)


def test_quantizing_passes_gradients_straight_through_and_gives_the_codes_own_latents():
    codec = build(thin(PUBLISHED["24khz"]), dtype=torch.float64)
    quantized = codec.quantize(white(9000, dtype=torch.float64))
    torch.testing.assert_close(quantized.latents_BCL, codec.dequantize(quantized.codes))
    quantized.latents_BCL.square().sum().backward()
    first = next(codec.encoder.parameters())
    assert first.grad is not None and first.grad.abs().max() > 0
    assert all(q.codebook.weight.grad is None for q in codec.quantizer.quantizers)


def test_the_chosen_code_is_the_nearest_in_angle_and_comes_back_unnormalised():
    codec = build(thin(PUBLISHED["24khz"]), dtype=torch.float64).requires_grad_(False)
    quantized = codec.quantize(white(30_000, dtype=torch.float64))
    for quantizer, codes, vectors, chosen in zip(
        codec.quantizer.quantizers, quantized.codes, quantized.projected, quantized.chosen, strict=True
    ):
        book = quantizer.codebook.weight
        cosines = torch.nn.functional.cosine_similarity(vectors[0].T[:, None], book[None], dim=-1)
        assert torch.equal(cosines.argmax(dim=1), codes[0])
        assert torch.equal(chosen[0].T, book[codes[0]])


@needs_compiler
def test_codes_are_the_same_with_the_fused_snake(eager_again):
    """Compiled, the sine is another one, equal to rounding; on real speech no token was found to differ."""
    model = build(thin(PUBLISHED["24khz"]))
    audio = white(40_000, batch=2)
    with torch.inference_mode():
        eager = model.encode(audio)
        kernels.fuse_snake()
        assert kernels.snake_without_gradients is not kernels.snake
        for ours, theirs in zip(model.encode(audio), eager, strict=True):
            assert torch.equal(ours, theirs)
