"""What is read of a head on prompts, against every family's own forward pass, finite differences and closed forms."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from activation_descent.attention import heads, language_heads
from activation_descent.attention.language_heads import Prompts, Scan
from activation_descent.finetuning.attention import attention_calls
from activation_descent.language.models import FAMILIES, LanguageModel
from activation_descent.language.prompts import Speaker
from activation_descent.language.tasks import own_tasks
from activation_descent.language.world import make_tokenizer
from tests.unit.language.test_models import CONFIGS, WORLD

SCAN = Scan(bases=9, level=0.05, untrained=2, draws=2, prompts=3, demonstrations=4)


def model_of(family, vocabulary=50):
    torch.manual_seed(0)
    config = type(CONFIGS[family])(**{**CONFIGS[family].to_dict(), "vocab_size": vocabulary})
    network = AutoModelForCausalLM.from_config(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(family, network, make_tokenizer(WORLD, 64))


def prompts():
    tokens = torch.randint(2, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    return Prompts(tokens, torch.tensor([9, 7]))


def scale_of(model, call):
    """What multiplies products of projected queries and keys; OPT divides its queries beforehand."""
    return 0.5 if model.family == "opt" else call.scale


def loss_of(model, given):
    """Next-token loss in a loop."""
    logits, total = model.logits(given.tokens), 0
    for row, tokens, length in zip(logits, given.tokens, given.lengths.tolist(), strict=True):
        for place in range(length - 1):
            total = total - row[place].log_softmax(0)[tokens[place + 1]]
    return total


@pytest.fixture(params=sorted(FAMILIES))
def model(request):
    return model_of(request.param)


@pytest.fixture
def found(model):
    return {(layer, head): did for layer, head, did in language_heads.heads_on(model, prompts())}


def test_updates_of_all_heads_are_what_the_attention_adds(model, found):
    recording = model.record(prompts().tokens)
    for layer in range(model.layers):
        module = model._attention(layer).get_submodule(model.layout.output)
        added = sum(found[layer + 1, head + 1].update for head in range(model.heads))
        added = added + (0 if module.bias is None else module.bias)
        assert torch.allclose(added, recording.attention_output[layer], atol=1e-5)
        for head in range(model.heads):
            assert torch.allclose(found[layer + 1, head + 1].state, recording.residual[layer], atol=1e-4)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"xglm"}))  # whose mask does not fit double precision
def test_error_is_minus_the_losss_slope_at_what_is_added(family):
    """By finite differences; in double precision but for what some families compute in single precision in any case."""
    model, rng = model_of(family), np.random.default_rng(0)
    model.network.double()
    found = {(layer, head): did for layer, head, did in language_heads.heads_on(model, prompts())}
    for layer in range(model.layers):
        shift = torch.from_numpy(rng.standard_normal((2, 9, 16)))
        module = model._attention(layer).get_submodule(model.layout.output)
        losses = []
        for sign in (1, -1):
            hook = module.register_forward_hook(
                lambda module, given, output, move=sign * 2e-3 * shift: output + move.view_as(output)
            )
            losses.append(loss_of(model, prompts()).item())
            hook.remove()
        slope = (losses[0] - losses[1]) / 4e-3
        assert slope == pytest.approx(-(found[layer + 1, 1].error * shift).sum().item(), rel=1e-2)


@torch.no_grad()
def test_energys_gradient_in_closed_form(model, found):
    """scale sum_i a_i k_i W_Q, the query's rotation undone."""
    with attention_calls(model) as calls:
        model.logits(prompts().tokens)
    for layer, call in calls.items():
        weight = model.projection(layer, "query").weight.unflatten(0, (model.heads, -1))
        pulled = scale_of(model, call) * call.weights @ call.key
        if model.family == "llama":
            cos, sin = model.network.model.rotary_emb(pulled, torch.arange(9)[None])
            first, second = pulled.chunk(2, dim=-1)
            pulled = pulled * cos + torch.cat([second, -first], dim=-1) * sin
        where = slice(0, 1) if model.family == "gpt_neox" else slice(None)  # the first token is not rotated
        for head in range(model.heads):
            expected = pulled[:, head] @ weight[head]
            assert torch.allclose(found[layer + 1, head + 1].energy[:, where], expected[:, where], atol=1e-4)


def test_scores_and_halves_are_the_calls(model, found):
    with torch.no_grad(), attention_calls(model) as calls:
        model.logits(prompts().tokens)
    for (layer, head), did in found.items():
        call = calls[layer - 1]
        assert torch.allclose(did.scores, call.logits[:, head - 1], atol=1e-5)
        length = call.key[:, head - 1].square().sum(-1)
        # exp(s - |k|^2 / 2 sqrt(d)) is a Gaussian of |q - k| for each query
        query = call.query[:, head - 1] * call.scale / scale_of(model, call)
        distance = (query[:, :, None] - call.key[:, head - 1, None]).square().sum(-1)
        gaussian = (-scale_of(model, call) * distance / 2).masked_fill(~did.visible, -torch.inf).softmax(-1)
        assert torch.allclose(
            (did.scores - did.halves[:, None]).masked_fill(~did.visible, -torch.inf).softmax(-1), gaussian, atol=1e-4
        )
        assert torch.allclose(did.halves, scale_of(model, call) * length / 2, atol=1e-5)


def test_only_tokens_with_a_next_one_and_something_to_look_at_count():
    assert prompts().asked.sum(1).tolist() == [8, 6]
    moments = language_heads.moments_on(model_of("llama"), prompts())
    assert {own.number for own in moments.values()} == {7 + 5}


@pytest.fixture(scope="module")
def speaker():
    model = model_of("llama", len(WORLD.vocabulary) + 10)
    tasks = own_tasks(WORLD, 0.3, 0, 12)
    return Speaker.of(model, next(task for task in tasks if task.name == "work"))


def test_prompts_end_in_the_label_of_a_query_of_their_pool(speaker):
    drawn = language_heads.draw_prompts(speaker, SCAN, np.random.default_rng(0), "evaluate")
    own = {tuple(speaker.query(example.text)): speaker.labels[example.label] for example in speaker.task.evaluation}
    shown = {tuple(speaker.query(example.text)) for example in speaker.task.demonstrations}
    assert len(drawn.tokens) == 3
    contexts = set()
    for row, length in zip(drawn.tokens.tolist(), drawn.lengths.tolist(), strict=True):
        (query,) = [text for text in own if tuple(row[length - 1 - len(text) : length - 1]) == text]
        assert row[length - 1] == own[query]
        assert sum(tuple(row[i : i + len(text)]) == text for text in shown for i in range(length)) == 4
        contexts.add(tuple(row[: length - 1 - len(query)]))
    assert len(contexts) == 3  # each with demonstrations of its own


def test_reading_records(speaker):
    table = pd.DataFrame(language_heads.reading_records([speaker], SCAN, 0, "mine"))
    keys = ["task", "seed", "layer", "head", "reading", "metric"]
    assert not table.duplicated(keys).any()
    r_squared = table[table["metric"] == "reading_r_squared"].set_index(keys[:-1])["value"]
    assert r_squared.xs("exact", level="reading").to_numpy() == pytest.approx(1, abs=1e-9)
    assert len(r_squared) == 2 * 3 * 4 * 8
    assert table.equals(pd.DataFrame(language_heads.reading_records([speaker], SCAN, 0, "mine")))


def test_scan_records(speaker):
    table = pd.DataFrame(language_heads.model_records(speaker.model, SCAN, 0, "mine"))
    keys = ["control", "seed", "layer", "head", "metric"]
    assert not table.duplicated(keys).any()
    assert set(table["control"]) == {"trained", "untrained"}
    assert table[table["control"] == "untrained"]["seed"].nunique() == 2
    scores = table[table["metric"] == "head_score"]
    assert len(scores) == 12 * 3
    assert scores["value"].max() < 0.9
    parts = table[table["metric"].isin(["separation", *(f"{p}_{s}" for p in heads.PARTS for s in ("qk", "ov"))])]
    least = parts.groupby(keys[:-1])["value"].min()
    assert np.allclose(least, scores.set_index(keys[:-1])["value"].reindex(least.index))
