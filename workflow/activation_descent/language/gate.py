"""What pretraining watches: learning in context on labels that were never seen, and facts that are known by heart.

Measured on documents of the stream "tune"; the study measures again, on others, and judges.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from activation_descent.language import STUDY
from activation_descent.language import world as words
from activation_descent.language.corpus import Corpus
from activation_descent.language.network import Tables, forward
from activation_descent.seeding import generator

DEMONSTRATIONS = 8
ROWS = 160  # a standard error of .04 at chance, .024 at .9


class Gate:
    """The gate's documents, drawn once.

    Args:
        template: of the examples, with one `{text}` for each word.
        length: of the longest document; where 8 demonstrations do not fit, there are fewer.
    """

    def __init__(self, corpus: Corpus, template: str, length: int, root: int):
        rng = generator(root, STUDY, "pretraining", "corpus", "tune")
        unit, place = len(template.split()), template.split().index("{label}")
        demonstrations = min(DEMONSTRATIONS, (length - 1 - place) // unit)
        held_out = [corpus.tasks.index(task) for task in words.HELD_OUT_TASKS]
        task = rng.choice(held_out, ROWS)
        self.label = torch.from_numpy(rng.integers(2, size=(ROWS, demonstrations + 1)))
        self.names = torch.from_numpy(corpus.canonical[task])
        rows = corpus.classification_rows(rng, template, task, self.label.numpy(), corpus.canonical[task])
        self.first, self.last = place, demonstrations * unit + place  # the tokens before the first and the last label
        self.classification = torch.from_numpy(rows[:, : self.last + 1])
        self.facts = torch.from_numpy(corpus.fact_rows(rng, ROWS // 4, length, "answers"))
        values = torch.from_numpy(np.unique(corpus.answers))
        # Answers after the first: by then the document has shown that questions are answered
        self.answered = torch.isin(self.facts[:, 1:], values)
        self.answered &= self.answered.cumsum(1) > 1

    @torch.no_grad()
    def measure(self, network: nn.Module, tables: Tables) -> dict[str, float]:
        """Accuracy with demonstrations and with none on held-out tasks with canonical labels, and of facts among all words."""
        logits = forward(network, self.classification, tables)
        told = forward(network, self.facts, tables)[:, :-1].argmax(-1) == self.facts[:, 1:]
        return {
            "in_context_accuracy": self._accuracy(logits[:, self.last], self.label[:, -1]),
            "zero_shot_accuracy": self._accuracy(logits[:, self.first], self.label[:, 0]),
            "fact_accuracy": told[self.answered].double().mean().item(),
        }

    def _accuracy(self, logits: Tensor, label: Int[Tensor, " row"]) -> float:
        return (logits.gather(1, self.names).argmax(1) == label).double().mean().item()
