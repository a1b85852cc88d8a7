"""The trained one-layer softmax networks of the regression study under `readings`, and held against a gradient step on their task.

Here the loss is known. A head with A = W_Q W_K^T and B = W_V W_P adds to the query's prediction `u = sum_i a_i (e_i B)_y`, and a gradient
step on the task's least squares predicts `p = sum_i y_i x_i . x_q` up to its rate, which is the reading `error` of these layers. Only the
label's entry is ever read of a query, so updates are numbers; it is empty, so that stepping from the state is attention itself.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from activation_descent.attention import STUDY
from activation_descent.attention.readings import Head, Moments, scores_of, steps
from activation_descent.records import Row
from activation_descent.regression.alignment import evaluation_tasks
from activation_descent.regression.tasks import Tasks
from activation_descent.regression.training import Trained, Training
from activation_descent.regression.transformer import products, unpack

EXPERIMENT = "readings"


def heads_of(heads: Float[Tensor, "head matrix feature feature"], tasks: Tasks) -> list[Head]:
    """Each head at the query of each task, in the coordinates of the prediction (minus the label's entry).

    Args:
        heads: W_Q, W_K, W_V, W_P of each head.
    """
    context, query = tasks.tokens[:, :-1].permute(2, 1, 0), tasks.tokens[:, -1:].permute(2, 1, 0)  # task token feature
    root = context.shape[-1] ** 0.5
    descent = torch.einsum("nt,int,it->t", tasks.labels, tasks.inputs, tasks.query)[:, None, None]
    found = []
    for a, b in zip(*products(heads), strict=True):
        scores = (query @ a) @ context.mT / root
        weights = scores.softmax(-1)
        # Keys e W_K and queries e W_Q are not unique; halves of |q - k|^2 are those of the balanced factors of A
        _, singular, right = torch.linalg.svd(a)
        keys = context @ right.mT * singular.sqrt()
        found.append(
            Head(
                scores,
                torch.ones(1, 1, context.shape[1], dtype=torch.bool),
                keys.square().sum(-1) / (2 * root),
                -(context @ b)[..., -1:],
                torch.zeros_like(descent),
                -(weights @ context @ a.mT)[..., -1:] / root,
                descent,
            )
        )
    return found


def reading_records(training: Training, root: int, variant: str, trained: Trained, number: int) -> Iterator[Row]:
    """R^2 of every reading for each seed and head, from `number` tuning and as many evaluation tasks.

    Head 0 is all heads together, held against the task's gradient step.
    """
    tasks = {purpose: evaluation_tasks(training, root, variant, purpose, number) for purpose in ("tune", "evaluate")}
    for seed, snapshots in enumerate(trained.snapshots):
        weights = unpack(snapshots[-1].double(), training.architecture)["attention"][0]
        found = {purpose: heads_of(weights, own) for purpose, own in tasks.items()}
        base = {"study": STUDY, "experiment": EXPERIMENT, "variant": variant, "seed": seed, "layer": 1}
        for place in range(training.heads):
            moments = {
                purpose: _moments(heads[place].update, steps(heads[place], heads[place].update.roll(1, dims=0)))
                for purpose, heads in found.items()
            }
            for reading, value in scores_of(moments["tune"], moments["evaluate"]).items():
                yield base | {"head": place + 1, "reading": reading, "metric": "reading_r_squared", "value": value}
        together = {
            purpose: _moments(sum(head.update for head in heads), {"error": heads[0].error}) for purpose, heads in found.items()
        }
        value = scores_of(together["tune"], together["evaluate"])["error"]
        yield base | {"head": 0, "reading": "error", "metric": "reading_r_squared", "value": value}


def _moments(update: Tensor, predicted: dict[str, Tensor]) -> Moments:
    return Moments.of(update, predicted, torch.ones(update.shape[:2], dtype=torch.bool))
