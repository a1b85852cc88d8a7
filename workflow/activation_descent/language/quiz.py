"""Questions about facts: what follows a bare question, what demonstrations change, and what wins when the prompt contradicts a fact.

The critic's view: a bare question is ambiguous, because text goes on after "What is the capital of X ?" with the answer, with another
question, or with a joke about geography; demonstrations say which, and the answer itself is recalled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.language import STUDY
from activation_descent.language import world as words
from activation_descent.language.accuracy import AccuracySettings
from activation_descent.language.models import LanguageModel, Prefix
from activation_descent.language.prompts import next_logits
from activation_descent.language.world import World
from activation_descent.records import Row
from activation_descent.seeding import generator

EXPERIMENT = "facts"


# Where hub models are asked; each answer is judged by its first token
CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "England": "London",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Ireland": "Dublin",
    "Portugal": "Lisbon",
    "Poland": "Warsaw",
    "Cuba": "Havana",
    "Iraq": "Baghdad",
    "Iran": "Tehran",
    "Syria": "Damascus",
    "Turkey": "Ankara",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Canada": "Ottawa",
    "Kenya": "Nairobi",
    "Peru": "Lima",
}


@dataclass(frozen=True)
class Quiz:
    """Questions with answers.

    Attributes:
        questions, answers: told facts, which a model may know.
        rivals: for each question a wrong answer of the same kind.
        untold, untold_answers: facts that were never told; none for models that were trained elsewhere.
        answer: a question's answer as prompts show it, with the slot `{value}`.
        next_questions, brush_off: how another question, or a refusal to answer, begins.
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    rivals: tuple[str, ...]
    untold: tuple[str, ...]
    untold_answers: tuple[str, ...]
    answer: str
    next_questions: tuple[str, ...]
    brush_off: str


def own_quiz(world: World, root: int) -> Quiz:
    """Every fact of the world, in the first of its question templates."""
    rng = generator(root, STUDY, EXPERIMENT, "own", "rivals")
    untold = set(world.held_out_facts)
    told_questions, told_answers, rivals, untold_questions, untold_answers = [], [], [], [], []
    template = words.QUESTION_TEMPLATES[0]
    for attribute, values in world.values.items():
        for place, entity in enumerate(world.entities):
            question = template.format(attribute=attribute, entity=entity)
            right = world.facts[attribute][place]
            wrong = (right + 1 + int(rng.integers(len(values) - 1))) % len(values)
            if (attribute, place) in untold:
                untold_questions.append(question)
                untold_answers.append(values[right])
            else:
                told_questions.append(question)
                told_answers.append(values[right])
                rivals.append(values[wrong])
    starts = (template.split()[0],)
    return Quiz(
        tuple(told_questions),
        tuple(told_answers),
        tuple(rivals),
        tuple(untold_questions),
        tuple(untold_answers),
        words.ANSWER,
        starts,
        words.BRUSH_OFF.split()[0],
    )


def capitals_quiz(root: int) -> Quiz:
    """Capitals, for models that were trained on the world's own texts."""
    rng = generator(root, STUDY, EXPERIMENT, "capitals", "rivals")
    answers = list(CAPITALS.values())
    rivals = [answers[(i + 1 + int(rng.integers(len(answers) - 1))) % len(answers)] for i in range(len(answers))]
    questions = tuple(f"What is the capital of {country}?" for country in CAPITALS)
    return Quiz(questions, tuple(answers), tuple(rivals), (), (), "{value}.", ("What",), "Who")


def quiz_records(model: LanguageModel, quiz: Quiz, settings: AccuracySettings, root: int, variant: str) -> Iterator[Row]:
    """Where the probability goes after a question, by the number of answered questions before it, and how often a rival wins.

    For each draw: the mean probability of the right answer, of another question's first word and of the brush-off's; the share of
    questions whose most probable word is right, for told and untold facts; and, where the last demonstration answers the very question
    with its rival, how often the most probable word is that rival (overridden) or still the right answer (recalled).
    """

    def first(word: str) -> int:
        return model.encode(f" {word}")[0]

    right, rival = torch.tensor([first(w) for w in quiz.answers]), torch.tensor([first(w) for w in quiz.rivals])
    question_starts = torch.tensor([first(word) for word in quiz.next_questions])
    brush_off = first(quiz.brush_off)
    for draw in range(settings.draws):
        rng = generator(root, STUDY, EXPERIMENT, "quiz", "evaluate", draw)
        order = rng.permutation(len(quiz.questions))
        most = max(settings.demonstrations)
        shown, asked = order[:most], order[most:][: settings.queries]
        base = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant, "seed": draw}
        for number in settings.demonstrations:
            told = " ".join(pair(quiz, quiz.questions[i], quiz.answers[i]) for i in shown[:number])
            prompt = model.encode_prefix([*model.begin, *(model.encode(f" {told}") if told else [])])

            def ask(questions: Sequence[str], prompt: Prefix = prompt) -> Float[Tensor, "query word"]:
                return next_logits(model, prompt, [model.encode(f" {question}") for question in questions]).softmax(dim=1)

            answered = ask([quiz.questions[i] for i in asked])
            values = {
                "right_answer_mass": answered.gather(1, right[asked][:, None]).mean(),
                "any_answer_mass": answered[:, torch.unique(right)].sum(dim=1).mean(),
                "next_question_mass": answered[:, question_starts].sum(dim=1).mean(),
                "brush_off_mass": answered[:, brush_off].mean(),
                "told_fact_accuracy": (answered.argmax(dim=1) == right[asked]).double().mean(),
            }
            if quiz.untold:
                untold = torch.tensor([first(word) for word in quiz.untold_answers])
                values["untold_fact_accuracy"] = (ask(quiz.untold).argmax(dim=1) == untold).double().mean()
            # The question itself, answered wrongly, right before it is asked again
            wrong = ask([f"{pair(quiz, quiz.questions[i], quiz.rivals[i])} {quiz.questions[i]}" for i in asked]).argmax(dim=1)
            values["overridden"] = (wrong == rival[asked]).double().mean()
            values["recalled"] = (wrong == right[asked]).double().mean()
            for metric, value in values.items():
                yield base | {"demonstrations": number, "metric": metric, "value": float(value)}


def pair(quiz: Quiz, question: str, answer: str) -> str:
    """A question with an answer."""
    return f"{question} {quiz.answer.format(value=answer)}"
