"""States of models of many families, and models that no lens can serve."""

import pytest
import torch

from activation_descent.errors import DataError, ModelError
from activation_descent.language.tasks import Example, Task
from activation_descent.lens.states import Network, batch_of, recorded, text_rows

VOCABULARY, LAYERS, WIDTH = 97, 3, 16


def network(family, **changes):
    """A small model of a family with weights large enough that every part matters."""
    import transformers

    size = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    llama = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24}
    opt = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "ffn_dim": 24,
        "word_embed_proj_dim": WIDTH,
    }
    gpt = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 32}
    settings = {
        "GPT2": gpt,
        "GPTJ": {**gpt, "rotary_dim": 4},
        "GPTNeoX": {**llama, "max_position_embeddings": 32},
        "OPT": {**opt, "max_position_embeddings": 32},
        "Llama": {**llama, "max_position_embeddings": 32},
        "Gemma2": {**llama, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 5.0},
    }
    config = getattr(transformers, f"{family}Config")(**size, **(settings[family] | changes))
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made


def tokens(*shape):
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", ["GPT2", "GPTJ", "GPTNeoX", "OPT", "Llama"])
def test_the_unembedding_of_the_last_state_is_the_logits(family):
    """Blocks of GPT-J return a tuple, those of the others a tensor."""
    made = network(family)
    subject, read = Network(made, family, 2), tokens(2, 3, 10)
    states = subject.record(read)
    assert states.shape == (2, LAYERS + 1, 3, 10, WIDTH)
    for seed in range(2):
        with torch.no_grad():
            wanted = made(read[seed], output_hidden_states=True)
        read_out = subject.unembedding.of(seed).logits(states[seed : seed + 1, -1:].flatten(2, 3))[0, 0]
        torch.testing.assert_close(read_out.view(3, 10, -1), wanted.logits)
        for layer in range(LAYERS):  # the last entry has been through the last normalisation and is another thing
            torch.testing.assert_close(states[seed, layer], wanted.hidden_states[layer])
        assert not torch.allclose(states[seed, LAYERS], wanted.hidden_states[LAYERS], atol=0.1)
        batch = batch_of(subject, read)
        torch.testing.assert_close(batch.final[seed].view(3, 9, -1), wanted.logits[:, :-1].softmax(-1))
        torch.testing.assert_close(batch.states[seed, 1].view(3, 9, -1), wanted.hidden_states[1][:, :-1])
        assert torch.equal(batch.following[seed].view(3, 9), read[seed, :, 1:])


@pytest.mark.parametrize("family", ["GPT2", "GPTJ", "Llama"])
def test_resuming_runs_the_later_blocks_on_other_states(family):
    made = network(family)
    subject, read = Network(made, family), tokens(1, 3, 10)
    states = subject.record(read)
    for layer in range(LAYERS + 1):
        torch.testing.assert_close(subject.resume(read, layer, states[:, layer]), states[:, -1])
    # Tokens that look back see changed ones, tokens before do not
    changed = states[:, 1].clone()
    changed[:, :, 4] += torch.randn(WIDTH, generator=torch.Generator().manual_seed(2))
    moved = (subject.resume(read, 1, changed) - states[:, -1]).abs().amax((0, 1, 3))
    assert (moved[:4] == 0).all()
    assert (moved[4:] > 1e-4).all()


def test_layers_that_stand_twice():
    """With the default cache both calls of a block would share one slot; here they are what a loop over the blocks computes."""
    made = network("GPT2")
    blocks = torch.nn.ModuleList([made.transformer.h[place] for place in (0, 1, 1, 1, 2)])
    made.transformer.h = blocks
    made.config.n_layer = len(blocks)
    read = tokens(2, 10)
    with torch.no_grad():
        states, logits = recorded(made, blocks, read)
        x = made.transformer.wte(read) + made.transformer.wpe(torch.arange(10))
        for place, block in enumerate(blocks):
            torch.testing.assert_close(states[place], x)
            x = block(x)
            x = x[0] if isinstance(x, tuple) else x
        cached = made(read).logits
    torch.testing.assert_close(states[-1], x)
    torch.testing.assert_close(logits, made.lm_head(made.transformer.ln_f(x)))
    assert (cached - logits).abs().max() > 1e-3  # why caches are off


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("Gemma2", {}, "its logits are not the unembedding of its normalised last state"),
        ("OPT", {"do_layer_norm_before": False, "word_embed_proj_dim": 8}, "it has no last normalisation"),  # as OPT-350m
        ("OPT", {"word_embed_proj_dim": 8}, "it projects its last state before the unembedding"),
    ],
)
def test_models_that_no_lens_can_serve(family, changes, reason):
    with pytest.raises(ModelError, match=f"^model some/name: {reason}"):
        Network(network(family, **changes), "some/name")


def test_texts_become_rows():
    task = Task("t", "real", "", (), (), (Example("abc", 0), Example("de", 1)), (Example("fgh", 0),), (Example("xy", 0),))
    encode = lambda text: [ord(letter) for letter in text]
    rows = text_rows(encode, 0, [task], ["demonstrations", "tuning"], 4)
    assert rows.tolist() == [[97, 98, 99, 0], [100, 101, 0, 102]]  # the ragged rest is dropped
    with pytest.raises(DataError, match="data sets t: their evaluation texts have 3 tokens, too few for a row of 4"):
        text_rows(encode, 0, [task], ["evaluation"], 4)
