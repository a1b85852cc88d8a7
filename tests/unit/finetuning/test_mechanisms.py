"""Parts of an update, values as error signals and dose response, against closed forms and against the models themselves."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from activation_descent.finetuning import mechanisms
from activation_descent.finetuning.attention import attention_calls
from activation_descent.finetuning.mechanisms import ErrorSignals
from activation_descent.finetuning.patching import splits
from activation_descent.language.models import LanguageModel
from activation_descent.language.world import make_tokenizer
from tests.unit.finetuning.test_patching import DEMONSTRATIONS, QUERIES, draw, head_call, prompt_of, tiny
from tests.unit.language.test_models import FAMILIES, SPECIAL, WORLD


def small_gpt2(layers=1, width=16, positions=True):
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=50, n_embd=width, n_layer=layers, n_head=2, n_positions=64, **SPECIAL)
    network = AutoModelForCausalLM.from_config(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if not positions:
        torch.nn.init.zeros_(network.transformer.wpe.weight)
    return LanguageModel("gpt2", network, make_tokenizer(WORLD, 64))


# Parts of an update


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_parts_add_up_to_the_change_of_the_attention_output(family):
    model = tiny(family)
    prompt = prompt_of(model)
    parts = mechanisms.update_parts(model, prompt, QUERIES)
    for place, query in enumerate(QUERIES):
        behind, alone = (model.record(torch.tensor([[*before, *query]])) for before in (prompt, model.begin))
        change = behind.attention_output[:, 0, -1] - alone.attention_output[:, 0, -1]
        assert torch.allclose(sum(parts.values())[:, place], change, atol=2e-5)
    assert min(part.abs().max() for part in parts.values()) > 0.01


@torch.no_grad()
def test_parts_are_what_they_are_called():
    """Llama turns queries and keys, not values: its first layer's values do not know where they stand. Own values alone cannot dilute."""
    model = tiny("llama")
    prompt = prompt_of(model)
    parts = mechanisms.update_parts(model, prompt, QUERIES)
    assert parts["inputs"][0].abs().max() < 1e-6
    assert parts["inputs"][1].abs().max() > 1e-2
    shown = slice(len(model.begin), len(prompt))
    for layer, split in enumerate(splits(model, model.encode_prefix(prompt), QUERIES, shown)):
        project = model._attention(layer).o_proj
        assert torch.allclose(parts["direct"][layer], project((split.mass * split.shown).flatten(1)), atol=1e-5)
    none = mechanisms.update_parts(model, model.begin, QUERIES)  # no demonstrations, no update
    assert max(part.abs().max() for part in none.values()) < 1e-6


def test_similarity_of_parts_with_an_update():
    update = draw(2, 5, 8)
    found = mechanisms.part_similarity({"direct": 3 * update, "inputs": -update, "dilution": draw(2, 5, 8, seed=1)}, update)
    assert torch.allclose(found["direct"]["paired"], torch.ones(2).double())
    assert torch.allclose(found["inputs"]["paired"], -torch.ones(2).double())
    cosines = torch.nn.functional.cosine_similarity(update[0].double()[:, None], update[0].double(), dim=-1)
    others = (cosines.sum() - cosines.trace()) / 20
    assert found["direct"]["shuffled"][0].item() == pytest.approx(others.item())
    assert found["dilution"]["paired"].abs().max() < 0.6


# Values as error signals


def signals(model, tokens, **options):
    return mechanisms.error_signals(model, torch.tensor(tokens), **options)


def test_values_that_are_negative_gradients_have_alignment_one():
    """One layer whose output projection is next to nothing, so that gradients do not depend on values. Values are then solved for."""
    model, tokens = small_gpt2(), [4, 31, 17, 9, 26, 40, 12, 3]
    attention = model.network.transformer.h[0].attn
    with torch.no_grad():
        attention.c_proj.weight *= 1e-4
    before = signals(model, tokens)
    assert before.alignment.abs().max() < 0.5
    errors = torch.zeros(8, 2, 8).double()
    errors[:7] = before.errors[0].transpose(0, 1)[:7]  # the last token predicts nothing
    with torch.no_grad():
        read = model.record(torch.tensor([tokens])).attention_input[0, 0].double()
        weight = torch.linalg.lstsq(read, errors.flatten(1)).solution
        attention.c_attn.weight[:, 32:] = weight.float()
        attention.c_attn.bias[32:] = 0
    after = signals(model, tokens)
    assert torch.allclose(after.alignment, torch.ones(1, 2).double(), atol=1e-3)
    assert torch.isnan(after.of_tokens[0, :, 7]).all()
    assert torch.isfinite(after.of_tokens[0, :, :7]).all()


def test_errors_are_gradients_of_the_chosen_tokens_surprise():
    """By finite differences of the loss, one head output moved at a time."""
    model, tokens = small_gpt2(layers=2), torch.tensor([4, 31, 17, 9, 26, 40])
    model.network.double()
    chosen = torch.tensor([False, False, True, False, True, False])
    found = mechanisms.error_signals(model, tokens, chosen)

    def loss(layer, head, token, step):
        def move(place, call):
            if place != layer:
                return None
            output = call.output.clone()
            output[0, head, token] += step
            return output

        with torch.no_grad(), mechanisms.replaced_attention(model, move):
            surprise = -model.logits(tokens[None])[0].log_softmax(-1)
        return surprise[1, 17] + surprise[3, 26]

    for layer, head, token in ((0, 1, 2), (1, 0, 3), (0, 0, 0)):
        slope = torch.stack(
            [loss(layer, head, token, -1e-5 * unit) - loss(layer, head, token, 1e-5 * unit) for unit in torch.eye(8).double()]
        )
        assert torch.allclose(found.errors[layer, head, token], slope / slope.norm(), atol=1e-5)
    assert torch.isnan(
        found.errors[1, :, [0, 2, 4, 5]]
    ).all()  # of the last layer, only the tokens before a chosen one predict it
    with attention_calls(model) as calls:
        model.logits(tokens[None])
    value = calls[1].value.detach()[0, 0, 3]
    assert torch.allclose(found.values[1, 0, 3], value / value.norm())


def test_a_contrast_is_between_what_two_prompts_have_token_by_token():
    model, tokens, other = small_gpt2(layers=2), [4, 31, 17, 9, 26, 40], [4, 31, 18, 9, 26, 40]
    found = mechanisms.signal_contrast(model, torch.tensor(tokens), torch.tensor(other))
    for part in ("values", "errors"):
        raw = []
        for each in (tokens, other):
            with torch.enable_grad(), attention_calls(model) as calls:
                logits = model.logits(torch.tensor([each]))[0].log_softmax(-1)
                surprise = -logits[torch.arange(5), torch.tensor(each[1:])].sum()
                gradients = torch.autograd.grad(surprise, [call.output for call in calls.values()])
            raw.append(torch.cat([call.value.detach() for call in calls.values()]) if part == "values" else -torch.cat(gradients))
        apart = (raw[0] - raw[1]).double()
        expected = apart / apart.norm(dim=-1, keepdim=True)
        given = getattr(found, part)
        moved = apart.norm(dim=-1) > 1e-4 * raw[0].norm(dim=-1)
        assert torch.allclose(given[moved], expected[moved], atol=1e-6)
    # In the first layer a value knows its own token alone; no token before the other one has seen it
    assert torch.isfinite(found.values[0, :, 2]).all()
    assert torch.isnan(found.values[0, :, [0, 1, 3, 4, 5]]).all()
    assert torch.isnan(found.values[1, :, :2]).all()
    assert torch.isfinite(found.values[1, :, 2:]).all()
    same = mechanisms.signal_contrast(model, torch.tensor(tokens), torch.tensor(tokens))
    assert torch.isnan(same.alignment).all()


def test_a_permutation_test_finds_the_head_whose_values_know_their_errors():
    errors = torch.nn.functional.normalize(draw(2, 3, 40, 6).double(), dim=-1)
    values = torch.nn.functional.normalize(draw(2, 3, 40, 6, seed=1).double(), dim=-1)
    values[1, 2] = torch.nn.functional.normalize(values[1, 2] + errors[1, 2], dim=-1)
    classes = torch.arange(40) % 4
    found = mechanisms.permutation_test(ErrorSignals(values, errors), classes, np.random.default_rng(0), 400)
    assert found.p_heads[1, 2] == pytest.approx(1 / 401)
    others = found.p_heads.flatten()[:5]
    assert others.min() > 0.02
    assert found.excess[1, 2] > 0.5
    assert found.p_total < 0.05


def test_what_a_class_of_tokens_shares_is_part_of_the_null():
    kinds = torch.nn.functional.normalize(draw(4, 6).double(), dim=-1)
    same = kinds[torch.arange(40) % 4].expand(2, 3, 40, 6)
    found = mechanisms.permutation_test(ErrorSignals(same, same), torch.arange(40) % 4, np.random.default_rng(0), 100)
    assert found.excess.abs().max() < 1e-12
    assert found.p_total == pytest.approx(1)
    assert found.p_heads.min() == pytest.approx(1)
    one_class = mechanisms.permutation_test(
        ErrorSignals(same, same), torch.zeros(40, dtype=torch.long), np.random.default_rng(0), 100
    )
    assert one_class.p_total == pytest.approx(1 / 101)


# Dose response


def doses(size, scale):
    """A head whose demonstrations are repeated: keys and values stand there once, twice and four times."""
    query, keys, values = draw(12, 4), draw(5, 4, seed=1), draw(5, 4, seed=2)
    own_keys, own_values = draw(3, 4, seed=3), draw(3, 4, seed=4)
    found = []
    for repeat in (1, 2, 4):
        call = head_call(
            query, keys.repeat(repeat, 1), values.repeat(repeat, 1), own_keys + size * query.mean(0), own_values, scale
        )
        found.append(mechanisms.masked_logits(call, torch.zeros(12, dtype=torch.long)))
    weights = [logits.softmax(-1) for logits in found]
    mass = torch.stack([part[..., :-3].sum(-1) for part in weights])
    shown = torch.stack(
        [
            part[..., :-3] @ values.repeat(repeat, 1) / part[..., :-3].sum(-1, keepdim=True)
            for part, repeat in zip(weights, (1, 2, 4), strict=True)
        ]
    )
    return mechanisms.summarise(mass[:, None].double(), shown[:, None].double(), (1, 2, 4)), mass


def test_a_softmax_head_is_shared_out_as_the_closed_form_says():
    """Nadaraya and Watson: m(r) = r S / (r S + S_own), direction as it was."""
    found, mass = doses(0.0, 1.0)
    odds = mass[0] / (1 - mass[0])
    for place, repeat in enumerate((1, 2, 4)):
        assert torch.allclose(mass[place], repeat * odds / (repeat * odds + 1), atol=1e-5)
        assert torch.allclose(mechanisms.kernel_mass(mass[0], repeat), mass[place], atol=1e-5)
    assert found.mass_r_squared == pytest.approx(1, abs=1e-6)
    assert found.kernel_r_squared == pytest.approx(1, abs=1e-6)
    assert found.additive_r_squared < 0
    assert torch.allclose(found.slope, found.kernel_slope, atol=1e-4)
    assert 0 < found.slope.item() < 0.6
    assert torch.allclose(found.direction, torch.ones(3, 1, 1).double())
    assert found.length[:, 0, 0].tolist() == pytest.approx(found.mass[:, 0, 0].tolist(), abs=1e-6)


def test_where_demonstrations_are_hardly_looked_at_softmax_adds_up():
    mass, shown = torch.full((1, 1, 6, 1), 1e-4).double(), draw(1, 1, 6, 1, 3).double()
    grown = torch.cat([mechanisms.kernel_mass(mass, repeat) for repeat in (1, 2, 4)])
    found = mechanisms.summarise(grown, shown.expand(3, -1, -1, -1, -1), (1, 2, 4))
    assert found.slope.item() == pytest.approx(1, abs=1e-3)
    assert found.additive_r_squared == pytest.approx(1, abs=1e-3)


def test_slope_and_r_squared_by_hand():
    """Lengths .1, .3 and .7 where the kernel says .1, .2/1.1 and .4/1.3."""
    mass = torch.tensor([0.1, 0.3, 0.7]).double()[:, None, None, None]
    found = mechanisms.summarise(mass, torch.ones(3, 1, 1, 1, 2).double(), (1, 2, 4))
    x = np.log([1, 2, 4])
    assert found.slope.item() == pytest.approx(np.polyfit(x, np.log([0.1, 0.3, 0.7]), 1)[0])
    assert found.kernel_slope.item() == pytest.approx(np.polyfit(x, np.log([0.1, 0.2 / 1.1, 0.4 / 1.3]), 1)[0])
    left = (0.3 - 0.2 / 1.1) ** 2 + (0.7 - 0.4 / 1.3) ** 2
    assert found.mass_r_squared == pytest.approx(1 - left / (2 * 0.2**2))
    assert found.additive_r_squared == pytest.approx(1 - (0.1**2 + 0.3**2) / (2 * 0.2**2))


def test_a_model_without_positions_is_a_kernel_smoother_in_its_first_layer():
    model = small_gpt2(layers=2, positions=False)
    found = mechanisms.dose_response(model, DEMONSTRATIONS, QUERIES, (1, 2, 4))
    assert torch.allclose(found.slope[0], found.kernel_slope[0], atol=1e-4)
    assert torch.allclose(found.direction[:, 0], torch.ones(3, 2).double(), atol=1e-6)
    assert not torch.allclose(found.slope[1], found.kernel_slope[1], atol=1e-4)  # other queries, keys and values there
    placed = mechanisms.dose_response(small_gpt2(layers=2), DEMONSTRATIONS, QUERIES, (1, 2, 4))
    assert not torch.allclose(placed.slope[0], placed.kernel_slope[0], atol=1e-2)


@pytest.mark.parametrize("repeats", [(1, 2, 8), (2, 4)])
def test_doses_must_fit_and_begin_with_one(repeats):
    with pytest.raises(ValueError, match="must begin with 1 and fit in 64 tokens"):
        mechanisms.dose_response(small_gpt2(), DEMONSTRATIONS, QUERIES, repeats)
