"""How alike in-context learning (ICL) and fine-tuning (FT) change hidden states and attention maps.

Both are held against the model without demonstrations (ZSL). With c1 = cos(h_ICL, h_ZSL) and c2 = cos(h_FT, h_ZSL) the published SimAOU
(Dai et al. 2022), the cosine of differences of normalised states, falls into two parts, exactly and for each example:

    SimAOU = 1/2 sqrt((1 - c1)(1 - c2)) + 1/2 sqrt((1 + c1)(1 + c2)) S_perp.

The first is a floor that any two movements reach, alike or not: both shorten the part along h_ZSL. Deutch et al. 2023 (section 3.1) give
an example of it, 1/4. S_perp, the partial cosine, is what the two have in common beside h_ZSL.

All arithmetic is in float64: with a small step c is 1 - 1e-8 and less, which float32 cannot tell from 1. A vector of length zero has no
direction, so that its cosine is not a number; where an intervention leaves a layer as it was, its similarity there is undefined.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Hidden states


def cosine(first: Float[Tensor, "*#batch feature"], second: Float[Tensor, "*#batch feature"]) -> Float[Tensor, "*batch"]:
    """Cosine along the last axis; not a number where a vector is zero."""
    return (_unit(first) * _unit(second)).sum(-1)


def raw_update(state: Float[Tensor, "*batch feature"], zero: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
    """`h - h_ZSL`; its cosines are Deutch et al.'s SimAOU."""
    return state.double() - zero.double()


def normalised_update(
    state: Float[Tensor, "*batch feature"], zero: Float[Tensor, "*batch feature"]
) -> Float[Tensor, "*batch feature"]:
    """`h / |h| - h_ZSL / |h_ZSL|`; its cosines are Dai et al.'s SimAOU."""
    return _unit(state) - _unit(zero)


def orthogonal_update(
    state: Float[Tensor, "*batch feature"], zero: Float[Tensor, "*batch feature"]
) -> Float[Tensor, "*batch feature"]:
    """The part of h orthogonal to h_ZSL; its cosines are S_perp."""
    state, zero = state.double(), zero.double()
    along = (state * zero).sum(-1, keepdim=True) / zero.square().sum(-1, keepdim=True)
    return state - along * zero


def similarity_floor(icl_cosine: Float[Tensor, "*batch"], ft_cosine: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """SimAOU of two movements without anything in common: `1/2 sqrt((1 - c1)(1 - c2))`."""
    return 0.5 * ((1 - icl_cosine).clamp(min=0) * (1 - ft_cosine).clamp(min=0)).sqrt()


def update_similarity(
    icl: Float[Tensor, "*batch feature"], ft: Float[Tensor, "*batch feature"], zero: Float[Tensor, "*batch feature"]
) -> dict[str, Float[Tensor, "*batch"]]:
    """All comparisons of two updates of the same hidden states.

    Args:
        zero: the states that both started from: ZSL, or ZSL behind a text of the demonstrations' length.

    Returns:
        normalised      SimAOU as Dai et al. published it
        floor           what of it two unrelated movements of this size reach
        raw             SimAOU without normalisation (Deutch et al.)
        partial         S_perp = (c12 - c1 c2) / sqrt((1 - c1^2)(1 - c2^2))
        icl_cosine      c1
        ft_cosine       c2
        icl_movement    |h_ICL - h_ZSL| / |h_ZSL|
        ft_movement     |h_FT - h_ZSL| / |h_ZSL|
    """
    icl_cosine, ft_cosine = cosine(icl, zero), cosine(ft, zero)
    length = zero.double().norm(dim=-1)
    return {
        "normalised": cosine(normalised_update(icl, zero), normalised_update(ft, zero)),
        "floor": similarity_floor(icl_cosine, ft_cosine),
        "raw": cosine(raw_update(icl, zero), raw_update(ft, zero)),
        "partial": cosine(orthogonal_update(icl, zero), orthogonal_update(ft, zero)),
        "icl_cosine": icl_cosine,
        "ft_cosine": ft_cosine,
        "icl_movement": raw_update(icl, zero).norm(dim=-1) / length,
        "ft_movement": raw_update(ft, zero).norm(dim=-1) / length,
    }


def odd_part(descent: Float[Tensor, "*batch"], ascent: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """`1/2 [S(+eta) - S(-eta)]`: the part of a similarity that turns with the sign of the step, first order in the gradient.

    What descent and ascent share (a floor, a common shrinkage) is not evidence for descent.
    """
    return 0.5 * (descent - ascent)


def project_off(
    updates: Float[Tensor, "*#batch feature"], directions: Float[Tensor, "*#batch direction feature"]
) -> Float[Tensor, "*batch feature"]:
    """Updates without what lies in a span, such as that of the label unembeddings and the mean update.

    Args:
        directions: may depend on each other, as the unembeddings of two labels and their difference do. An unembedding acts behind
            the last normalisation: multiply it by that normalisation's gain first (and centre it where the normalisation does).
    """
    updates = updates.double()
    _, lengths, basis = torch.linalg.svd(directions.double(), full_matrices=False)
    basis = basis * (lengths > 1e-10 * lengths[..., :1])[..., None]
    within = basis @ updates[..., None]
    return updates - (basis.mT @ within).squeeze(-1)


def shuffled_cosine(
    first: Float[Tensor, "*batch query feature"], second: Float[Tensor, "*batch query feature"]
) -> Float[Tensor, "*batch query"]:
    """Null of a similarity: the mean cosine of each query's first update with the second updates of all other queries.

    A similarity that does not exceed it is one constant direction, not a change that depends on the query. Takes updates of any kind
    (`raw_update`, ...). Not a number for one query.
    """
    first, second = _unit(first), _unit(second)
    others = second.sum(-2, keepdim=True) - second
    return (first * others).sum(-1) / (first.shape[-2] - 1)


def uniform_update(like: Float[Tensor, "*batch feature"], rng: np.random.Generator) -> Float[Tensor, "*batch feature"]:
    """U[0, 1)^d, the random baseline that Dai et al. put in the place of a normalised update of FT.

    All its features are positive: it measures the mean feature of the update that it is held against, E cos = sqrt(3)/2 cos(u, 1)
    in many dimensions.
    """
    return torch.from_numpy(rng.random(like.shape))


def gaussian_update(like: Float[Tensor, "*batch feature"], rng: np.random.Generator) -> Float[Tensor, "*batch feature"]:
    """An update of uniformly random direction and the length of the given one: no direction in common with anything."""
    return _unit(torch.from_numpy(rng.standard_normal(like.shape))) * like.double().norm(dim=-1, keepdim=True)


def _unit(vector: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch feature"]:
    return vector.double() / vector.double().norm(dim=-1, keepdim=True)


# Attention maps. Logits are one query token's, before mask and softmax; `valid` names the keys that stand in all settings.


def attention_similarity(
    icl: Float[Tensor, "*batch key"],
    ft: Float[Tensor, "*batch key"],
    zero: Float[Tensor, "*batch key"],
    valid: Bool[Tensor, "*#batch key"],
) -> dict[str, Float[Tensor, "*batch"]]:
    """All comparisons of two changes of the same attention maps.

    Softmax ignores a constant that is added to a row, the cosine of raw logits does not: two unrelated rows with a common constant
    come close to 1. Centred values take each row's mean over its valid keys off first. A row with one valid key has no centred value.

    Args:
        valid: keys to compare; what stands elsewhere is ignored.

    Returns:
        before, after, delta                            SimAM of ICL with ZSL and with FT (Dai et al. 2022), SimAM of the changes from
                                                        ZSL (Deutch et al. 2023)
        before_centred, after_centred, delta_centred    the same of centred logits
        before_variation, after_variation               total variation of the softmax over valid keys, ICL to ZSL and ICL to FT
    """
    maps = [torch.where(valid, logits.double(), 0) for logits in (icl, ft, zero)]
    result = {}
    for suffix, (a, b, c) in (("", maps), ("_centred", [centred(logits, valid) for logits in maps])):
        result |= {f"before{suffix}": cosine(a, c), f"after{suffix}": cosine(a, b), f"delta{suffix}": cosine(a - c, b - c)}
    return result | {
        "before_variation": total_variation(icl, zero, valid),
        "after_variation": total_variation(icl, ft, valid),
    }


def centred(logits: Float[Tensor, "*batch key"], valid: Bool[Tensor, "*#batch key"]) -> Float[Tensor, "*batch key"]:
    """Logits minus each row's mean over its valid keys; zero at other keys."""
    kept = torch.where(valid, logits.double(), 0)
    mean = kept.sum(-1, keepdim=True) / valid.sum(-1, keepdim=True)
    return torch.where(valid, kept - mean, 0)


def total_variation(
    first: Float[Tensor, "*batch key"], second: Float[Tensor, "*batch key"], valid: Bool[Tensor, "*#batch key"]
) -> Float[Tensor, "*batch"]:
    """Total variation, 0 to 1, of the two softmax distributions over the valid keys."""
    p, q = (torch.where(valid, logits.double(), -math.inf).softmax(-1) for logits in (first, second))
    return 0.5 * (p - q).abs().sum(-1)


# Layers


def cross_layer_matrix(
    icl: Float[Tensor, "layer query feature"], ft: Float[Tensor, "layer query feature"]
) -> Float[Tensor, "layer layer"]:
    """`M_ll' = mean_x cos(update of ICL at l, update of FT at l')`, rows ICL. Takes updates of any kind."""
    return torch.einsum("lqf,mqf->lm", _unit(icl), _unit(ft)) / icl.shape[1]


def diagonal_dominance(matrix: Float[Tensor, "layer layer"]) -> float:
    """Mean of the diagonal minus the mean over distances |l - l'| > 0 of the mean entry at that distance.

    Above zero where FT resembles ICL layer by layer, about zero where all layers share one direction.

    Raises:
        ValueError: for a single layer.
    """
    return float((_contrast(len(matrix)) * matrix.double()).sum())


def _contrast(layers: int) -> Float[Tensor, "layer layer"]:
    if layers < 2:
        raise ValueError("diagonal dominance needs at least two layers")
    place = torch.arange(layers)
    distance = (place[:, None] - place).abs()
    off = -1 / ((layers - 1) * 2 * (layers - distance).double())
    return torch.where(distance == 0, 1 / layers, off)


# Attention to the demonstrations


def dual_weights(
    memory: Float[Tensor, "*#batch token feature"], query: Float[Tensor, "*#batch feature"]
) -> Float[Tensor, "*batch token"]:
    """Attention of the dual form: `memory_i^T query` for each token of the demonstrations (Dai et al. 2022, equation 9).

    Dai et al. took the scaled queries of all heads on both sides. The keys of equation 9 are the inputs of the updated linear layer,
    for W_K and W_V the normalised states that the attention reads; with these on both sides the weights are those of FT.
    """
    return (memory.double() @ query.double()[..., None]).squeeze(-1)


def error_weighted(
    memory: Float[Tensor, "*#batch token feature"],
    query: Float[Tensor, "*#batch feature"],
    errors: Float[Tensor, "*#batch token"],
) -> Float[Tensor, "*batch token"]:
    """How much each token moves the output of the updated layer: `|e_i| |memory_i^T query|`.

    Args:
        errors: length of rate times derivative of the loss by the layer's output at each token.
    """
    return errors.double() * dual_weights(memory, query).abs()


def kendall_tau(
    first: Float[Tensor, "*batch key"], second: Float[Tensor, "*batch key"], valid: Bool[Tensor, "*#batch key"]
) -> Float[Tensor, "*batch"]:
    """Kendall's tau-b of each row over its valid keys; not a number where a row does not vary.

    Ranks do not change under softmax, so raw weights serve as well as probabilities.
    """
    from scipy.stats import kendalltau

    shape, keys = first.shape[:-1], first.shape[-1]
    a, b, kept = (rows.reshape(-1, keys).numpy() for rows in (first, second, valid.expand(first.shape)))
    taus = [kendalltau(x[keep], y[keep]).statistic if keep.sum() > 1 else math.nan for x, y, keep in zip(a, b, kept, strict=True)]
    return torch.tensor(taus, dtype=torch.float64).reshape(shape)
