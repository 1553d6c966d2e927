"""The GPU kernels against float64 references: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from geometries import PUBLISHED, randomise, thin
from torch import Tensor

from snac_pipeline.codec import SNAC, Noise, kernels, quantizer

triton_kernels = pytest.importorskip("snac_pipeline.codec.triton_kernels", reason="Triton is not installed")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(1, 1, 1), (2, 3, 7), (1, 4, 1023), (3, 2, 1024), (2, 1, 1025), (1, 5, 2600)]
ROUNDING = {torch.float32: 4e-7, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def made(shape, dtype=torch.float32, scale=1.0, seed=0):
    """Numbers that `dtype` holds, on the device."""
    values = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype)


def assert_close(found, exact, dtype, magnitude=1.0):
    """Within `dtype`'s rounding of the exact value, or of the size of what was added up for it."""
    assert found.dtype == dtype
    allowed = ROUNDING[dtype] * torch.maximum(exact.abs(), torch.as_tensor(magnitude, device=exact.device))
    assert ((found.double() - exact).abs() <= 4 * allowed).all()


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_snake_is_the_formula(shape, dtype):
    x, alpha = made(shape, dtype, scale=3.0), made((1, shape[1], 1), seed=1).abs() * 5
    assert_close(triton_kernels.snake(x, alpha), kernels.snake(x.double(), alpha.double()), dtype, 1 / alpha.double())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_snake_ends_where_the_mask_does(shape):
    x, alpha = made(shape, scale=3.0), made((1, shape[1], 1), seed=1).abs()
    ends = torch.arange(1, shape[0] + 1, device=DEVICE)[:, None, None] * shape[2] // (shape[0] + 1)
    mask = (torch.arange(shape[2], device=DEVICE) < ends).to(x.dtype)
    assert torch.equal(triton_kernels.snake(x, alpha, mask), triton_kernels.snake(x, alpha) * mask)


@pytest.mark.parametrize("alpha", [0.0, 1e-9, 1e-4, 300.0])
def test_snake_of_extreme_frequencies_is_finite_and_right(alpha):
    x, alpha = made((2, 1, 500), scale=20.0), torch.full((1, 1, 1), alpha, device=DEVICE)
    found = triton_kernels.snake(x, alpha).double()
    exact = kernels.snake(x.double(), alpha.double())
    # The phase is rounded to float32, as in torch's own: that is worth (a x) 2^-24 of phase.
    assert ((found - exact).abs() <= 1e-5 * (1 + x.double().abs())).all()


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_of_snake_are_those_of_the_formula(shape, dtype):
    x, alpha, grad = made(shape, dtype, 2.0), made((1, shape[1], 1), seed=1).abs() + 0.1, made(shape, dtype, seed=2)
    grad_x, grad_alpha = triton_kernels.snake_gradients(x, alpha, grad)
    exact_x, exact_alpha = kernels.snake_gradients(x.double(), alpha.double(), grad.double())
    assert_close(grad_x, exact_x, dtype, magnitude=grad.double().abs() + 1)
    added = (grad.double().abs() * (2 * x.double().abs() + 1 / alpha.double())).sum(dim=(0, 2), keepdim=True)
    assert_close(grad_alpha, exact_alpha, torch.float32, magnitude=added / alpha.double())


@pytest.mark.parametrize("dilation", kernels.DILATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_depthwise_convolutions_and_their_gradients_are_those_of_torch(shape, dtype, dilation):
    x, grad = made(shape, dtype), made(shape, dtype, seed=1)
    weight, bias = made((shape[1], 1, 7), dtype, seed=2), made((shape[1],), dtype, seed=3)
    exact = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    out = F.conv1d(*exact, padding=3 * dilation, dilation=dilation, groups=shape[1])
    out.backward(grad.double())
    assert_close(triton_kernels.depthwise(dilation, x, weight, bias), out.detach(), dtype, magnitude=10.0)
    found = triton_kernels.depthwise_gradients(dilation, x, weight, grad)
    for gradient, tensor, added in zip(found, exact, (10.0, shape[0] * shape[2], shape[0] * shape[2]), strict=True):
        assert gradient.shape == tensor.shape
        assert_close(gradient, tensor.grad, dtype, magnitude=added)


@pytest.mark.parametrize("count, size, dim", [(1, 1, 8), (63, 127, 8), (65, 129, 8), (200, 4096, 8), (70, 300, 5)])
def test_the_nearest_code_is_the_one_of_exact_distances(count, size, dim):
    vectors, codebook = F.normalize(made((count, dim))), F.normalize(made((size, dim), seed=1))
    found = triton_kernels.nearest(vectors, codebook)
    distances = (vectors.double()[:, None] - codebook.double()[None]).pow(2).sum(-1)
    chosen = distances.gather(1, found[:, None])[:, 0]
    assert (chosen - distances.min(dim=1).values <= 1e-6).all()
    assert found.dtype == torch.int64


def test_of_equal_codes_the_first_is_taken():
    vectors = F.normalize(made((5, 8)))
    codebook = torch.cat([vectors.roll(1, 0), vectors, vectors, -vectors.repeat(40, 1)])
    assert triton_kernels.nearest(vectors, codebook).tolist() == [1, 2, 3, 4, 0]


def test_results_repeat_bit_for_bit():
    x, alpha, grad = made((3, 4, 2500)), made((1, 4, 1)).abs(), made((3, 4, 2500), seed=1)
    once, again = (triton_kernels.snake_gradients(x, alpha, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_a_codec_that_runs_on_these_kernels_is_the_same_codec(monkeypatch):
    """The model's own layers call them, forwards and backwards; without a GPU they are pointed at the interpreter."""
    model = randomise(SNAC(thin(PUBLISHED["24khz"]))).to(DEVICE)
    audio = made((1, 1, model.spec.samples(model.spec.alignment)), scale=0.1)

    def through() -> tuple[list[Tensor], Tensor, list[Tensor]]:
        with torch.no_grad():
            quantized = model.quantize(audio)
        decoded = model.synthesize(quantized.latents_BCL, Noise("off"), [24000])[24000]
        model.zero_grad()
        decoded.square().mean().backward()
        gradients = [parameter.grad for parameter in model.decoder.parameters() if parameter.grad is not None]
        return quantized.codes, decoded.detach(), gradients

    asked = []

    def point_at(module):
        def chosen(x):
            asked.append(module)
            return module

        for place in (kernels, quantizer):
            monkeypatch.setattr(place, "gpu_kernels", chosen)

    point_at(None)
    plain_codes, plain_audio, plain_gradients = through()
    point_at(triton_kernels)
    kernels.fuse_on_gpu()
    try:
        codes, decoded, gradients = through()
    finally:
        kernels.eager_kernels()
    assert triton_kernels in asked
    assert all(torch.equal(a, b) for a, b in zip(plain_codes, codes, strict=True))
    assert torch.allclose(plain_audio, decoded, atol=1e-5)
    for plain, fused in zip(plain_gradients, gradients, strict=True):
        assert torch.allclose(plain, fused, rtol=1e-3, atol=1e-3 * plain.abs().max().item())


def test_on_a_cpu_and_for_doubles_nothing_is_handed_to_triton():
    assert kernels.gpu_kernels(torch.zeros(1, 1, 8)) is None
    assert kernels.gpu_kernels(torch.zeros(1, 1, 8, dtype=torch.float64, device=DEVICE)) is None


COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from snac_pipeline.codec import triton_kernels as k

def compiled(kernel, activations, **constants):
    kinds = {name: "constexpr" for name in constants}
    for name in kernel.arg_names:
        if name not in kinds:
            wide = name in ("alpha_ptr", "weight_ptr", "bias_ptr", "partial_ptr", "vectors_ptr", "codebook_ptr")
            pointer = "*i64" if name == "indices_ptr" else "*fp32" if wide else activations
            kinds[name] = pointer if name.endswith("_ptr") else "i32"
    source = ASTSource(fn=kernel, signature=kinds, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32))

for activations in ("*fp32", "*bf16"):
    for kernel in (k._snake, k._snake_gradients, k._depthwise, k._depthwise_gradients):
        done = compiled(kernel, activations, block=k.BLOCK, **({"masked": True} if kernel is k._snake else {}))
        assert done.asm["cubin"]
        assert "sin.approx" not in done.asm["ptx"]
done = compiled(k._nearest, "*fp32", vectors=k.VECTORS, codes=k.CODES)
assert done.asm["cubin"]
print("compiled")
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernels_compile_to_machine_code_with_an_exact_sine(capability, tmp_path):
    """For A100 and H100/H200, by Triton's own compiler and ptxas, which need no GPU."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    script = tmp_path / "compile_kernels.py"
    script.write_text(COMPILE)
    done = subprocess.run([sys.executable, script, capability], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "compiled", done.stderr
