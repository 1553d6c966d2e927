"""The models that judge tokenizers are distributions, and find the entropy of a source of which it is known."""

import numpy as np
import pytest
from made_tokens import SMALL, stream_of

from snac_pipeline.tokens import LAYOUTS, make_layout
from snac_pipeline.tokens.bpe_tokenizer import learn_merges
from snac_pipeline.tokens.heldout import Tokens, fit_bigram, fit_unigram, resampled_sums
from snac_pipeline.tokens.judging import encoded, entries_by_phase, flat_ids


def one_phase(ids: np.ndarray, utterances: int = 1) -> Tokens:
    offsets = np.linspace(0, ids.size, utterances + 1).astype(int)
    return Tokens(ids, np.zeros_like(ids), offsets)


def chain(stay: float, length: int, seed: int) -> np.ndarray:
    """Four states, equally likely: the same again with probability `stay`, else any of the others."""
    rng = np.random.default_rng(seed)
    moves = np.where(rng.random(length) < stay, 0, rng.integers(1, 4, length))
    return np.cumsum(moves) % 4


def test_the_unigram_model_is_a_distribution_at_every_phase():
    rng = np.random.default_rng(0)
    starts_at = np.array([[1, 1, 0, 0, 1], [0, 0, 1, 1, 0]], bool)
    phases = np.arange(30) % 2
    ids = np.where(phases == 0, rng.choice([0, 1, 4], 30), rng.choice([2, 3], 30))
    model = fit_unigram(Tokens(ids, phases, np.array([0, 30])), starts_at)
    assert (2.0**-model.bits * starts_at).sum(1) == pytest.approx([1, 1])


@pytest.mark.parametrize("before", [0, 3, 4])
def test_the_bigram_model_is_a_distribution_after_every_token(before):
    """4 was never seen, so that nothing is known of what follows it."""
    ids = np.random.default_rng(0).integers(0, 4, 50)
    unigram = fit_unigram(one_phase(ids), np.ones((1, 5), bool))
    model = fit_bigram(one_phase(ids), unigram)
    firsts = model.utterance_bits(one_phase(np.array([before])))
    pairs = [model.utterance_bits(one_phase(np.array([before, after]))) - firsts for after in range(5)]
    assert (2.0 ** -np.array(pairs)).sum() == pytest.approx(1)
    starts = [model.utterance_bits(one_phase(np.array([first]))) for first in range(5)]
    assert (2.0 ** -np.array(starts)).sum() == pytest.approx(1)


@pytest.mark.parametrize("run_length", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_models_of_merged_tokens_are_distributions_whatever_came_before(layout, run_length):
    """Of everything that can come next: the code lengths that tokenizers are compared by are those of real codes."""
    made, rng = make_layout(layout, SMALL, 0), np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 3, (300, 7)).cumsum(1) % 16, rng.choice([1, 1, 2, 5], 300), axis=0)[:500]
    stream = stream_of(SMALL, [frames[:, a:b].reshape(-1) for a, b in ((0, 1), (1, 3), (3, 7))], [25] * 20, ["a"] * 20)
    bpe = learn_merges(made, *flat_ids(made, stream), 60, run_length=run_length)
    tokens, starts_at = encoded(bpe, stream), entries_by_phase(bpe)
    unigram = fit_unigram(tokens, starts_at)
    model = fit_bigram(tokens, unigram)
    assert (2.0**-unigram.bits * starts_at).sum(1) == pytest.approx(np.ones(len(made.slots)))
    assert starts_at[tokens.phases, tokens.ids].all(), "what was seen was possible"
    _, lengths = bpe.shapes()
    for before in rng.choice(tokens.ids.size, 20):
        first, phase = tokens.ids[before], tokens.phases[before]
        after = (phase + lengths[first]) % len(made.slots)
        total = 0.0
        for following in np.flatnonzero(starts_at[after]):
            pair = Tokens(np.array([first, following]), np.array([phase, after]), np.array([0, 1, 2]))
            joined = Tokens(pair.ids, pair.phases, np.array([0, 2]))
            total += 2.0 ** -(model.utterance_bits(joined)[0] - model.utterance_bits(pair)[0])
        assert total == pytest.approx(1)


def test_the_bigram_model_finds_a_chains_entropy_rate_and_the_unigram_model_its_marginal():
    stay = 0.8
    train, held = (one_phase(chain(stay, 200_000, seed), 10) for seed in (0, 1))
    unigram = fit_unigram(train, np.ones((1, 4), bool))
    rate = -(stay * np.log2(stay) + (1 - stay) * np.log2((1 - stay) / 3))
    assert unigram.utterance_bits(held).sum() / held.ids.size == pytest.approx(2, rel=0.001)
    assert fit_bigram(train, unigram).utterance_bits(held).sum() / held.ids.size == pytest.approx(rate, rel=0.01)


def test_no_pair_is_carried_over_the_border_of_an_utterance():
    together = Tokens(np.array([0, 1, 0, 1]), np.zeros(4, int), np.array([0, 2, 2, 4]))
    model = fit_bigram(together, fit_unigram(together, np.ones((1, 2), bool)))
    bits = model.utterance_bits(together)
    assert bits[0] == bits[2] and bits[1] == 0


@pytest.mark.parametrize("ids", [[0], [0, 0, 0, 0], [0, 1, 2, 3]])
def test_bits_are_finite_for_the_least_of_data(ids):
    unigram = fit_unigram(one_phase(np.array(ids)), np.ones((1, 4), bool))
    model = fit_bigram(one_phase(np.array(ids)), unigram)
    assert np.isfinite(model.utterance_bits(one_phase(np.array([3, 0, 2])))).all()
    assert 0 < model.discount < 1


def test_resampling_keeps_rows_together_and_centres_on_the_sums():
    rng = np.random.default_rng(0)
    column = rng.random(200)
    drawn = resampled_sums(np.column_stack([column, 2 * column]), rng, 500)
    assert drawn[:, 1] == pytest.approx(2 * drawn[:, 0])
    assert drawn[:, 0].mean() == pytest.approx(column.sum(), rel=0.01)
    assert drawn[:, 0].std() == pytest.approx(np.sqrt(200) * column.std(), rel=0.1)
    assert resampled_sums(column[:1, None], rng, 5) is None
