"""Tasks and prompts: pools that share no text, files that are read or refused, demonstrations that fit."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from activation_descent.errors import DataError, ModelError
from activation_descent.language import world as words
from activation_descent.language.models import LanguageModel
from activation_descent.language.prompts import Speaker, next_logits
from activation_descent.language.tasks import REAL_SETS, Example, own_tasks, real_task
from activation_descent.language.world import make_tokenizer, make_world

WORLD = make_world(0, 0.1)


def tiny(length=64):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORLD.vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=length,
    )
    network = LlamaForCausalLM(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel("tiny", network, make_tokenizer(WORLD, length))


def test_pools_of_own_tasks_share_no_text_and_hold_each_class_equally_often():
    tasks = own_tasks(WORLD, 0.3, 0, 20)
    assert [task.name for task in tasks] == list(words.LEXICONS)
    for task in tasks:
        pools = (task.demonstrations, task.tuning, task.evaluation)
        texts = [{example.text for example in pool} for pool in pools]
        assert [len(text) for text in texts] == [20, 20, 20]
        assert len(set.union(*texts)) == 60
        for pool in pools:
            assert [example.label for example in pool].count(0) == 10
        assert (task.group == "held_out") == (task.name in words.HELD_OUT_TASKS)
    # A text's words are of its class or noise
    own = words.LEXICONS["sentiment"]
    for example in tasks[0].evaluation:
        lexicon = list(own.values())[example.label].split()
        assert any(word in lexicon for word in example.text.split())
        assert all(word in lexicon or word in words.NOISE for word in example.text.split())


def test_own_tasks_are_the_same_each_time_and_others_for_another_seed():
    assert own_tasks(WORLD, 0.3, 0, 8) == own_tasks(WORLD, 0.3, 0, 8)
    assert own_tasks(WORLD, 0.3, 0, 8) != own_tasks(WORLD, 0.3, 1, 8)


def write(folder, name, train, validation):
    (folder / name).mkdir(parents=True)
    for part, rows in (("train", train), ("validation", validation)):
        (folder / name / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def subj(number, start=0):
    return [
        {"text": f"text {i}", "label": 1, "label_name": ("objective", "subjective")[i % 2]} for i in range(start, start + number)
    ]


def test_a_real_set_is_read_from_a_folder(tmp_path):
    write(tmp_path, "subj", subj(30), subj(12, start=25))  # five texts are in both
    task = real_task("subj", tmp_path, 0, 10)
    assert task.labels == ("objective", "subjective")
    assert task.group == "real"
    pools = [set(pool) for pool in (task.demonstrations, task.tuning, task.evaluation)]
    assert [len(pool) for pool in pools] == [10, 10, 10]
    assert not pools[0] & pools[1]
    held = {f"text {i}" for i in range(25, 37)}
    assert {example.text for example in pools[2]} <= held
    assert not held & {example.text for example in pools[0] | pools[1]}
    # Classes go by their name: the files number them otherwise
    for example in task.demonstrations:
        assert example.label == int(example.text.split()[1]) % 2


def test_two_texts_are_joined_as_the_authors_join_them(tmp_path):
    rows = [{"text": "A fish swims.", "text_b": "A fish moves", "label_name": "entailment"}] * 4
    rows += [{"text": f"B {i}", "text_b": "C", "label_name": "neutral"} for i in range(4)]
    write(tmp_path, "cb", rows, rows[:1])
    task = real_task("cb", tmp_path, 0, 4)
    assert task.evaluation[0] == Example("A fish swims. Question: A fish moves.", 0)
    assert task.template.format(text=task.evaluation[0].text, label=task.labels[0]) == (
        "A fish swims. Question: A fish moves. True, False, or Neither? Answer: True"
    )


def test_other_label_words_stand_in_the_same_order(tmp_path):
    write(tmp_path, "subj", subj(8), subj(8, start=20))
    assert real_task("subj", tmp_path, 0, 2, ["fact", "opinion"]).labels == ("fact", "opinion")
    with pytest.raises(DataError, match=r"data set subj: 1 label words \(fact\) for 2 classes \(objective, subjective\)"):
        real_task("subj", tmp_path, 0, 2, ["fact"])


def test_every_real_set_has_a_word_for_each_class():
    # finetuning specification, table 1.3: classes and label words of Dai et al.
    words_of = {
        "sst2": ["Negative", "Positive"],
        "sst5": ["terrible", "bad", "neutral", "good", "great"],
        "mr": ["Negative", "Positive"],
        "subj": ["objective", "subjective"],
        "agnews": ["World", "Sports", "Business", "Technology"],
        "cb": ["True", "False", "Neither"],
    }
    assert {name: list(real.labels.values()) for name, real in REAL_SETS.items()} == words_of


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no file"),
        ("{", "cannot be read as one JSON object a line"),
        ('{"text": "a"}', "lacks the column 'label_name' in row 1"),
        ('{"label_name": "objective"}', "lacks the column 'text' in row 1"),
        ('{"text": "a", "label_name": "odd"}', "has the class 'odd' in row 1, not one of objective, subjective"),
        ("", "has no rows"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, sentence):
    write(tmp_path, "subj", subj(4), subj(4))
    path = tmp_path / "subj/validation.jsonl"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=sentence) as caught:
        real_task("subj", tmp_path, 0, 2)
    assert "data set subj" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_prompt_is_read_once_for_all_queries_with_the_same_logits():
    model = tiny(128)
    speaker = Speaker.of(model, own_tasks(WORLD, 0.3, 0, 80)[0])
    queries, shortened = speaker.queries(speaker.task.evaluation)
    shown = speaker.task.demonstrations[:16]
    prompt = speaker.prompt(shown, [speaker.labels[example.label] for example in shown], max(map(len, queries)))
    assert (prompt.used, shortened) == (16, 0)
    read = model.encode_prefix(prompt.tokens)
    reused, repeated = next_logits(model, read, queries), next_logits(model, prompt.tokens, queries)
    assert reused.shape == (80, len(WORLD.vocabulary))  # more than one batch
    assert torch.allclose(reused, repeated, atol=1e-4)
    alone = model.logits(torch.tensor([[*prompt.tokens, *queries[70]]]))[0, -1]
    assert torch.allclose(reused[70], alone, atol=1e-4)
    # Fewer demonstrations are the beginning of the same prompt
    fewer = speaker.prompt(shown[:3], [speaker.labels[example.label] for example in shown[:3]], max(map(len, queries)))
    assert fewer.tokens == prompt.tokens[: prompt.ends[3]]
    part = next_logits(model, read.first(prompt.ends[3]), queries)
    assert torch.allclose(part, next_logits(model, fewer.tokens, queries), atol=1e-4)
    assert not torch.allclose(part, reused, atol=1e-4)
    nothing = next_logits(model, read.first(0), queries)
    assert torch.equal(nothing, next_logits(model, [], queries))


def test_a_prompt_holds_what_fits_and_says_how_much():
    speaker = Speaker.of(tiny(64), own_tasks(WORLD, 0.3, 0, 20)[0])
    shown = speaker.task.demonstrations[:16]
    prompt = speaker.prompt(shown, [speaker.labels[example.label] for example in shown], 5)
    # <bos>, then 7 tokens an example ("input w w w label L ;"); 1 + 7 n + 5 < 64 for n up to 8
    assert prompt.used == 8
    assert len(prompt.tokens) == 1 + 7 * 8
    text = speaker.model.tokenizer.decode(prompt.tokens)
    first = speaker.task.demonstrations[0]
    assert text.startswith(f"<bos> input {first.text} label {speaker.task.labels[first.label]} ; input")


def test_a_query_longer_than_the_window_loses_its_beginning():
    speaker = Speaker.of(tiny(16), own_tasks(WORLD, 0.3, 0, 20)[0])
    long = Example(" ".join(["oak"] * 30), 0)
    queries, shortened = speaker.queries([long, speaker.task.evaluation[0]])
    assert shortened == 1
    assert len(queries[0]) == 16 - 2  # <bos> and the label
    assert queries[0][-1] == queries[1][-1] == WORLD.vocabulary.index("label")


def test_a_task_that_a_vocabulary_cannot_speak_is_refused(tmp_path):
    rows = [{"text": "a", "label_name": "Sports"}, {"text": "b", "label_name": "World"}]
    write(tmp_path, "agnews", rows, rows)
    model, task = tiny(), real_task("agnews", tmp_path, 0, 1)
    with pytest.raises(ModelError, match="its tokenizer has no end token to separate the examples of task agnews"):
        Speaker.of(model, task)
    model.tokenizer.add_special_tokens({"eos_token": "<pad>"})
    with pytest.raises(ModelError, match="the label word 'World' is not one token of its vocabulary"):
        Speaker.of(model, task)
