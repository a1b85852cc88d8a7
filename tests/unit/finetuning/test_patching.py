"""The split of softmax attention at the demonstrations, and what simpler forms of it leave."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from activation_descent.finetuning import patching
from activation_descent.finetuning.attention import AttentionCall, attention_calls
from activation_descent.finetuning.patching import FORMS, Fit, Split
from activation_descent.language.models import LanguageModel
from activation_descent.language.prompts import next_logits
from activation_descent.language.world import make_tokenizer
from tests.unit.language.test_models import CONFIGS, WORLD

FAMILIES = ("gpt_neo", "llama", "xglm")
QUERIES = [[7, 12, 30], [22, 9, 4, 31], [5], [17, 40, 8], [11, 3]]
TUNING = [[8, 2, 33], [41, 19, 6], [13, 27, 35, 9], [21, 16], [37, 5, 10], [29, 44]]
DEMONSTRATIONS = [24, 6, 15, 33, 18, 27, 9, 42]


def tiny(family, seed=0):
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_config(CONFIGS[family])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(family, network, make_tokenizer(WORLD, 64))


@pytest.fixture(params=FAMILIES)
def model(request):
    return tiny(request.param)


def prompt_of(model):
    return [*model.begin, *DEMONSTRATIONS]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def head_call(query, shown_keys, shown_values, own_keys, own_values, scale=1.0):
    """One head's attention of some queries to demonstrations, then to own tokens."""
    key, value = (torch.cat(pair)[None, None] for pair in ((shown_keys, own_keys), (shown_values, own_values)))
    inputs, sources = len(query), key.shape[2]
    key, value = key.expand(inputs, -1, -1, -1), value.expand(inputs, -1, -1, -1)
    query, mask = query[:, None, None], torch.zeros(1, 1, 1, sources)
    output = (scale * query @ key.mT).softmax(-1) @ value
    return AttentionCall(query, key, value, scale, mask, output)


# The split


@torch.no_grad()
def test_a_softmax_head_is_the_convex_mixture_of_its_two_parts(model):
    prefix, shown = model.encode_prefix(prompt_of(model)), slice(len(model.begin), len(prompt_of(model)))
    (tokens, at), *others = patching.batches(QUERIES)
    assert not others
    with attention_calls(model) as calls:
        model.logits(tokens, prefix, at)
    for layer, split in enumerate(patching.splits(model, prefix, QUERIES, shown)):
        call = calls[layer]
        weights = call.weights[torch.arange(5), :, at]
        assert torch.allclose(split.mass[..., 0], weights[..., shown].sum(-1), atol=1e-6)
        assert torch.allclose(split.output, call.output[torch.arange(5), :, at], atol=1e-5)
        direct = torch.einsum("bhs,bhsf->bhf", weights[..., shown], call.value[:, :, shown])
        assert torch.allclose(split.mass * split.shown, direct, atol=1e-5)
        assert torch.allclose(split.update, split.output - split.own, atol=1e-5)


@torch.no_grad()
def test_a_local_window_hides_demonstrations():
    """GPT-Neo's local layers see eight tokens back: with own tokens enough they see no demonstration."""
    model = tiny("gpt_neo")
    prompt = prompt_of(model)
    queries = [[7, 12, 30, 22, 9, 4, 31, 5, 17], [7, 12, 30]]
    splits = patching.splits(model, model.encode_prefix(prompt), queries, slice(len(model.begin), len(prompt)))
    assert [split.visible.sum(1).tolist() for split in splits] == [[8, 8], [0, 5], [8, 8], [0, 5]]
    assert splits[1].mass[0].abs().max() == 0
    assert torch.isfinite(splits[1].output).all()
    assert patching.linear_attention(splits[1])[0].abs().max() == 0
    order = torch.arange(8).flip(0)
    fits = [patching.fit_forms(split, order) for split in splits]
    for form in FORMS:
        assert torch.isfinite(patching.rebuilt(form, splits[1], fits[1])).all(), form


@torch.no_grad()
def test_first_order_form_is_the_tangent_of_softmax_attention_at_query_zero():
    keys, values, query = draw(6, 4), draw(6, 4, seed=1), draw(5, 4, seed=2)
    split = patching.split_call(
        head_call(query, keys, values, draw(2, 4, seed=3), draw(2, 4, seed=4), 0.5), torch.zeros(5, dtype=torch.long), slice(0, 6)
    )
    for place, q in enumerate(query):
        attention = lambda x: (0.5 * keys @ x).softmax(-1) @ values
        value, slope = torch.func.jvp(attention, (torch.zeros(4),), (q,))
        assert torch.allclose(patching.first_order(split)[place, 0], value + slope, atol=1e-5)


@torch.no_grad()
def test_linear_attention_is_the_sum_of_outer_products():
    keys, values, query = draw(6, 4), draw(6, 4, seed=1), draw(5, 4, seed=2)
    split = patching.split_call(
        head_call(query, keys, values, draw(2, 4, seed=3), draw(2, 4, seed=4), 0.5), torch.zeros(5, dtype=torch.long), slice(0, 6)
    )
    assert torch.allclose(patching.linear_attention(split)[:, 0], 0.5 * query @ (keys.T @ values), atol=1e-5)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    assert torch.allclose(patching.linear_attention(split, order)[:, 0], 0.5 * query @ (keys[order].T @ values), atol=1e-5)


# The forms


def hand_built(queries, seed, size):
    """Values and keys of mean zero, an own token without key and value: o = m/n sum_i v_i (k_i . q) to first order in the query."""
    keys, values = draw(8, 4), draw(8, 4, seed=1)
    keys, values = keys - keys.mean(0), values - values.mean(0)
    call = head_call(size * draw(queries, 4, seed=seed), keys, values, torch.zeros(1, 4), torch.zeros(1, 4))
    return patching.split_call(call, torch.zeros(queries, dtype=torch.long), slice(0, 8))


def r_squared(form, split, fit):
    return patching._r_squared(form, split, fit).item()


def test_linear_attention_is_exact_for_a_head_in_its_linear_range_and_a_constant_is_not():
    fit = patching.fit_forms(hand_built(60, 5, 1e-3), torch.arange(8).roll(1))
    held_out = hand_built(40, 6, 1e-3)
    assert fit.rate.item() == pytest.approx(1 / 9, rel=1e-3)  # m / n with m = 8/9
    for form in ("exact", "linear_attention", "first_order", "linear_map", "affine_map"):
        assert r_squared(form, held_out, fit) > 1 - 1e-3, form
    assert r_squared("constant", held_out, fit) < 0.2
    assert r_squared("permuted_keys", held_out, fit) < 0.5


def test_linear_attention_fails_for_a_head_that_picks_one_demonstration():
    """Large logits: the head copies the value of the nearest key, which no linear map of the query does."""
    fit, held_out = patching.fit_forms(hand_built(60, 5, 20.0), torch.arange(8)), hand_built(40, 6, 20.0)
    assert r_squared("exact", held_out, fit) == pytest.approx(1)
    assert max(r_squared(form, held_out, fit) for form in ("linear_attention", "linear_map", "affine_map")) < 0.9
    assert r_squared("first_order", held_out, fit) < 0


def test_each_form_is_exact_for_the_update_that_it_describes():
    base = hand_built(30, 7, 1.0)
    order, mass = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0]), torch.full((30, 1, 1), 0.3)
    vector, matrix = draw(1, 4, seed=8), draw(4, 4, seed=9)
    updates = {
        "linear_attention": 0.7 * patching.linear_attention(base),
        "permuted_keys": -0.4 * patching.linear_attention(base, order),
        "linear_map": (base.query[:, 0] @ matrix)[:, None],
        "affine_map": (base.query[:, 0] @ matrix + vector)[:, None],
    }
    own = draw(30, 1, 4, seed=10)
    for form, update in updates.items():
        made = Split(base.query, base.logits, base.visible, base.values, mass, own, own + update / 0.3)
        assert r_squared(form, made, patching.fit_forms(made, order)) == pytest.approx(1, abs=1e-5), form
    for form, shown in {"constant": vector.expand(30, 1, 4), "first_order": patching.first_order(base)}.items():
        made = Split(base.query, base.logits, base.visible, base.values, mass, own, shown)
        fit = patching.fit_forms(made, order)
        assert r_squared(form, made, fit) == pytest.approx(1, abs=1e-5), form
        assert max(r_squared(other, made, fit) for other in updates) < 0.99


def test_an_unknown_form_is_refused():
    split = hand_built(5, 7, 1.0)
    with pytest.raises(ValueError, match="there is no form 'quadratic'"):
        patching.rebuilt("quadratic", split, patching.fit_forms(split, torch.arange(8)))


@pytest.mark.parametrize("intercept", [False, True])
def test_ridge_takes_the_penalty_with_the_smallest_leave_one_out_error(intercept):
    """Held against refitting without each query, by the normal equations with the intercept as an input without a penalty."""

    def solve(x, y, penalty):
        design = np.column_stack([x, np.ones(len(x))]) if intercept else x
        cost = penalty * np.diag([1.0] * 4 + [0.0] * intercept)
        found = np.linalg.solve(design.T @ design + cost, design.T @ y)
        return found[:4], found[4] if intercept else np.zeros(2)

    rng, chosen = np.random.default_rng(0), []
    for _ in range(30):  # contexts of seven queries, where one of them weighs a lot
        x = rng.standard_normal((7, 4)) * [3, 1, 1, 0.1] + 1
        y = x @ rng.standard_normal((4, 2)) + 2 * rng.standard_normal((7, 2)) + 2
        errors = []
        for penalty in (penalties := np.array(patching.PENALTIES) * np.square(x).sum()):
            left = [solve(np.delete(x, i, 0), np.delete(y, i, 0), penalty) for i in range(7)]
            errors.append(sum(np.square(y[i] - x[i] @ w - b).sum() for i, (w, b) in enumerate(left)))
        chosen.append(np.argmin(errors))
        weight, offset = solve(x, y, penalties[chosen[-1]])
        found = patching.ridge(torch.from_numpy(x)[None], torch.from_numpy(y)[None], intercept)
        assert np.allclose(found[0][0].numpy(), weight, rtol=1e-4, atol=1e-5)
        assert np.allclose(found[1][0].numpy(), offset, rtol=1e-4, atol=1e-5)
    assert len(set(chosen)) > 3


def test_ridge_does_not_learn_from_rounding():
    x = torch.ones(1, 20, 4) + 1e-7 * draw(1, 20, 4)
    weight, offset = patching.ridge(x, draw(1, 20, 3, seed=1), intercept=True)
    assert torch.allclose(x @ weight + offset[:, None], offset[:, None] + (torch.ones(1, 1, 4) @ weight), atol=1e-3)
    assert torch.isfinite(weight).all()


# A whole model


def test_margin_is_the_log_odds_of_the_right_label():
    logits, truth = draw(4, 3), torch.tensor([0, 2, 1, 1])
    p = logits.double().softmax(-1)[torch.arange(4), truth]
    assert torch.allclose(patching.margin(logits, truth).double(), (p / (1 - p)).log(), atol=1e-5)
    assert torch.equal(patching.margin(logits[:, :2], truth % 2), (logits[:, 0] - logits[:, 1]) * torch.tensor([1, 1, -1, -1]))
    assert torch.allclose(patching.margin(logits.expand(2, 4, 3), truth)[1], patching.margin(logits, truth))


def test_the_exact_patch_recovers_the_whole_gain(model):
    truth, labels = torch.tensor([0, 1, 1, 0, 1]), [20, 25]
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    ladder = patching.patching_ladder(model, prompt_of(model), TUNING, QUERIES, labels, truth, order)
    for name, prompt in (("zero_shot", model.begin), ("in_context", prompt_of(model))):
        expected = patching.margin(next_logits(model, prompt, QUERIES)[:, labels], truth)
        assert torch.allclose(ladder.margins[name], expected, atol=1e-4)
    assert torch.allclose(ladder.margins["exact"], ladder.margins["in_context"], atol=1e-4)
    assert ladder.gain("exact") == pytest.approx(1, abs=1e-3)
    assert torch.allclose(ladder.r_squared["exact"], torch.ones(model.layers, model.heads), atol=1e-4)
    for form in FORMS[1:]:
        assert not torch.allclose(ladder.margins[form], ladder.margins["in_context"], atol=1e-3), form


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_patch_to_own_tokens_alone_is_a_mask_on_the_demonstrations(family):
    """In all layers at once: later layers read what patched ones wrote, and earlier tokens read the demonstrations as before."""
    model = tiny(family)
    prompt, query = prompt_of(model), [7, 12, 30, 22]
    shown = slice(len(model.begin), len(prompt))
    found = patching.patched_logits(model, model.encode_prefix(prompt), [query], shown, lambda _, split: split.own)
    length = len(prompt) + 4
    mask = torch.zeros(1, 1, length, length).masked_fill(torch.ones(length, length).triu(1).bool(), torch.finfo().min)
    mask[..., -1, shown] = torch.finfo().min
    expected = model.network(input_ids=torch.tensor([prompt + query]), attention_mask=mask, use_cache=False).logits[:, -1]
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, next_logits(model, prompt, [query]), atol=1e-2)


def test_forms_are_fitted_on_tuning_queries_alone():
    model = tiny("llama")
    truth, order = torch.tensor([0, 1, 1, 0, 1]), torch.arange(8)
    whole = patching.patching_ladder(model, prompt_of(model), TUNING, QUERIES, [20, 25], truth, order)
    part = patching.patching_ladder(model, prompt_of(model), TUNING, QUERIES[:2], [20, 25], truth[:2], order)
    for form in FORMS:
        assert torch.allclose(whole.margins[form][:2], part.margins[form], atol=1e-4), form
    assert torch.allclose(whole.margins["permuted_keys"], whole.margins["linear_attention"])  # each value has its own key


def test_fitted_means_are_those_of_the_split():
    split = hand_built(5, 7, 1.0)
    fit = patching.fit_forms(split, torch.arange(8))
    assert isinstance(fit, Fit)
    assert torch.allclose(fit.mass, split.mass.mean(0))
    assert torch.allclose(fit.shown, split.shown.mean(0))
