"""The decoder's noise: drawn like upstream, or a pure function of seed, block and sample position, or left out."""

import math

import numpy as np
import pytest
import torch
from geometries import PUBLISHED, build, random_codes, relative_error, thin

from snac_pipeline.codec import Noise
from snac_pipeline.codec.noise import counter_normal

COUNT = 1 << 20


@pytest.fixture(scope="module", params=["24khz", "32khz"])
def codec(request):
    return build(thin(PUBLISHED[request.param])).requires_grad_(False)


def draw(noise, length, batch=1, block=0, samples_per_latent=1):
    return noise.draw(torch.empty(batch, 3, length), block, samples_per_latent)


# ---- the modes -------------------------------------------------------------------------------------------------


def test_upstream_mode_draws_from_torch_s_generator_one_sample_for_each_item_and_step():
    torch.manual_seed(5)
    drawn = draw(Noise("upstream"), 100, batch=2)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.randn(2, 1, 100))


def test_two_decodes_differ_in_upstream_mode_and_are_equal_in_the_others(codec):
    codes = random_codes(codec.spec, codec.spec.alignment)
    for mode, same in (("upstream", False), ("seeded", True), ("off", True)):
        assert torch.equal(codec.decode(codes, noise=mode), codec.decode(codes, noise=mode)) == same, mode


def test_the_modes_give_different_audio_since_the_noise_counts(codec):
    codes = random_codes(codec.spec, codec.spec.alignment)
    seeded, other, off = (
        codec.decode(codes, noise=mode, seed=seed) for mode, seed in (("seeded", 0), ("seeded", 1), ("off", 0))
    )
    assert relative_error(seeded, off) > 0.01 and relative_error(other, off) > 0.01
    assert relative_error(seeded, other) > 0.01


@pytest.mark.parametrize("mode", ["seeded", "off"])
def test_other_modes_leave_torch_s_generator_alone(codec, mode):
    before = torch.get_rng_state()
    codec.decode(random_codes(codec.spec, codec.spec.alignment), noise=mode)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", ["Seeded", "", None, "none"])
def test_a_mistyped_mode_is_an_error_that_names_the_modes(codec, mode):
    with pytest.raises(ValueError, match="upstream, seeded, off"):
        codec.decode(random_codes(codec.spec, codec.spec.alignment), noise=mode)


# ---- seeded: a function of position ----------------------------------------------------------------------------


def test_a_batch_gives_what_its_items_give_alone(codec):
    unit = codec.spec.alignment
    codes = random_codes(codec.spec, 2 * unit, batch=3)
    seeds, starts = torch.tensor([4, 5, 4]), torch.tensor([0, 7 * unit, 3 * unit])
    batch = codec.decode(codes, noise="seeded", seed=seeds, start_frame=starts)
    for i in range(3):
        alone = codec.decode(
            [level[i : i + 1] for level in codes], noise="seeded", seed=int(seeds[i]), start_frame=int(starts[i])
        )
        assert relative_error(batch[i], alone[0]) < 1e-5, i


@pytest.mark.parametrize("samples_per_latent", [1, 8, 512])
def test_a_crop_s_noise_is_the_crop_of_the_noise(samples_per_latent):
    whole = draw(Noise("seeded", seed=9), 20 * samples_per_latent, block=2, samples_per_latent=samples_per_latent)
    crop = draw(
        Noise("seeded", seed=9, start=6), 5 * samples_per_latent, block=2, samples_per_latent=samples_per_latent
    )
    assert torch.equal(crop, whole[..., 6 * samples_per_latent : 11 * samples_per_latent])


def splitmix(x: int) -> int:
    """splitmix64's step on unsigned 64-bit integers (Steele et al. 2014), written for Python's integers."""
    mask = (1 << 64) - 1
    x = x * 0x9E3779B97F4A7C15 & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


@pytest.mark.parametrize("stream, position", [(0, 0), (0, 1), (1, 0), (63, 12345), (64 * 2**40 + 3, 10**9), (-64, 5)])
def test_the_numbers_are_box_muller_of_splitmix64(stream, position):
    """The definition is frozen: seeded results must mean the same in every version and on every device."""
    bits = splitmix(splitmix((stream + 1) % 2**64) + position)
    u1, u2 = ((bits & 0xFFFFFF) + 1) / 2**24, (bits >> 24 & 0xFFFFFF) / 2**24
    expected = math.sqrt(-2 * math.log(u1)) * math.cos(2 * math.pi * u2)
    got = counter_normal(torch.tensor(stream), torch.tensor(position))
    assert float(got) == pytest.approx(expected, abs=2e-6)


# ---- seeded: white and normal ----------------------------------------------------------------------------------
# Bounds are five standard errors; the numbers are fixed by their seeds, so that these tests give one answer for ever.


@pytest.fixture(scope="module")
def streams():
    """Noise of (seed, block), each a million samples."""
    keys = [(0, 0), (0, 1), (0, 3), (1, 0), (2, 0), (123_456_789, 0)]
    return {key: draw(Noise("seeded", seed=key[0]), COUNT, block=key[1]).flatten().double().numpy() for key in keys}


def test_moments_are_those_of_the_standard_normal(streams):
    for key, x in streams.items():
        assert abs(x.mean()) < 5 / math.sqrt(COUNT), key
        assert abs(x.var() - 1) < 5 * math.sqrt(2 / COUNT), key
        assert abs((x**3).mean()) < 5 * math.sqrt(15 / COUNT), key
        assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / COUNT), key
        assert np.isfinite(x).all() and 4.5 < np.abs(x).max() < 6, key


def test_the_distribution_is_normal_by_kolmogorov_s_distance(streams):
    for key, x in streams.items():
        ordered = torch.from_numpy(np.sort(x))
        distance = (torch.special.ndtr(ordered) - (torch.arange(COUNT) + 0.5) / COUNT).abs().max()
        assert distance < 2.0 / math.sqrt(COUNT), key  # exceeded by one truly normal sample in 1,500


def test_seeds_and_blocks_are_uncorrelated_at_any_lag(streams):
    spectra = {key: np.fft.rfft(x) for key, x in streams.items()}
    keys = list(streams)
    for i, a in enumerate(keys):
        for b in keys[i:]:
            correlation = np.fft.irfft(spectra[a] * spectra[b].conj()) / COUNT
            if a == b:
                correlation[0] = 0
            # The largest of a million normal values is near 5.3 standard errors.
            assert np.abs(correlation).max() < 6.5 / math.sqrt(COUNT), (a, b)


def test_neighbouring_seeds_and_blocks_are_unrelated_where_they_start():
    first = torch.stack(
        [draw(Noise("seeded", seed=seed), 4, block=block).flatten() for seed in range(256) for block in range(4)]
    ).double()
    n = len(first)
    assert first.mean(0).abs().max() < 5 / math.sqrt(n)
    assert (first.var(0) - 1).abs().max() < 5 * math.sqrt(2 / n)
    assert (first[1:] * first[:-1]).mean(0).abs().max() < 5 / math.sqrt(n)
