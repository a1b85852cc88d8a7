"""Softmax attention and five mechanisms that cost time in proportion to the length.

Each maps queries, keys (`token feature`) and values (`token value`) to what every token reads, over all tokens or, when causal, over those
up to itself. n tokens, d features:

    softmax      softmax(q k^T / sqrt d) v                                        O(n^2 d) time, O(n^2) memory
    efficient    softmax_features(q) [softmax_tokens(k)^T v]                      Shen et al. 2020, equation 7
    performer    phi(q) [phi(k)^T v] / phi(q) [phi(k)^T 1], phi(x) = exp(w x - |x|^2 / 2), w random
                                                                                  Choromanski et al. 2021, FAVOR+ (lemma 1)
    elu          the same with phi(x) = elu(x) + 1                                Katharopoulos et al. 2020, equation 7
    linear       q k^T v without a normaliser                                     von Oswald et al. 2022
    latent       softmax(q z_k^T / sqrt d) z_v, z = softmax(l k^T / sqrt d) (k, v) with m learnt latents l
                                                                                  cross-attention in and out, after Jaegle et al. 2022

The last five take O(n d^2) time (m features or latents in d's place) and O(n d) memory. They are made of products
sum_i (a_t . b_i) v_i, with other a and b each; `summed` and `prefix` take those without ever forming n^2 numbers.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from jaxtyping import Float
from torch import Tensor

CHUNK = 64  # tokens that causal sums treat as a square
TINY = 1e-6  # of a feature, so that no normaliser is zero (as in the authors' code of FAVOR+)

Features = Float[Tensor, "*#batch token feature"]
Values = Float[Tensor, "*#batch token value"]
Attention = Callable[[Features, Features, Values, bool], Values]


def summed(a: Features, b: Features, v: Values) -> Values:
    """`sum_i (a_t . b_i) v_i` over all i."""
    return a @ (b.mT @ v)


def prefix(a: Features, b: Features, v: Values, chunk: int = CHUNK) -> Values:
    """`sum_{i <= t} (a_t . b_i) v_i`: squares of `chunk` tokens, and a state of `feature x value` from one to the next."""
    length = a.shape[-2]
    if length <= chunk:
        return (a @ b.mT).tril() @ v
    said = []
    state = torch.zeros(*a.shape[:-2], b.shape[-1], v.shape[-1], dtype=v.dtype)
    for start in range(0, length, chunk):
        piece = slice(start, start + chunk)
        mine, theirs, values = a[..., piece, :], b[..., piece, :], v[..., piece, :]
        said.append(mine @ state + (mine @ theirs.mT).tril() @ values)
        state = state + theirs.mT @ values
    return torch.cat(said, -2)


def _sums(causal: bool) -> Callable[[Features, Features, Values], Values]:
    return prefix if causal else summed


def softmax(q: Features, k: Features, v: Values, causal: bool) -> Values:
    """Softmax attention."""
    logits = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        logits = logits.masked_fill(later, -math.inf)
    return logits.softmax(-1) @ v


def linear(q: Features, k: Features, v: Values, causal: bool) -> Values:
    """Linear attention without a normaliser."""
    return _sums(causal)(q / math.sqrt(q.shape[-1]), k, v)


def efficient(q: Features, k: Features, v: Values, causal: bool) -> Values:
    """Efficient attention. When causal, a key's softmax over tokens runs over those so far."""
    # One number for all tokens: it cancels
    mass = (k - k.amax(-2, keepdim=True)).exp()
    total = mass.cumsum(-2) if causal else mass.sum(-2, keepdim=True)
    return _sums(causal)(q.softmax(-1) / total.clamp(min=TINY), mass, v)


def normalised(phi_q: Features, phi_k: Features, v: Values, causal: bool) -> Values:
    """`phi(q) [phi(k)^T v] / phi(q) [phi(k)^T 1]`."""
    with_ones = torch.cat([v, torch.ones_like(v[..., :1])], -1)
    said = _sums(causal)(phi_q, phi_k, with_ones)
    return said[..., :-1] / said[..., -1:]


def elu(q: Features, k: Features, v: Values, causal: bool) -> Values:
    """The linear transformer's attention."""
    return normalised(F.elu(q) + 1 + TINY, F.elu(k) + 1 + TINY, v, causal)


def performer(projection: Float[Tensor, "*#batch random feature"]) -> Attention:
    """FAVOR+ with the given random directions; its features' products are exp(q . k / sqrt d) in expectation."""

    def attend(q: Features, k: Features, v: Values, causal: bool) -> Values:
        return normalised(positive_features(q, projection, (-1,)), positive_features(k, projection, (-2, -1)), v, causal)

    return attend


def positive_features(
    x: Features, projection: Float[Tensor, "*#batch random feature"], shared: tuple[int, ...]
) -> Float[Tensor, "*#batch token random"]:
    """`exp(w x' - |x'|^2 / 2)` with x' = x / d^(1/4), over their largest along the axes `shared`, which cancels."""
    x = x / x.shape[-1] ** 0.25
    logits = x @ projection.mT - x.square().sum(-1, keepdim=True) / 2
    return (logits - logits.amax(shared, keepdim=True)).exp() + TINY


def random_directions(rng: np.random.Generator, features: int, number: int) -> Float[Tensor, "random feature"]:
    """Gaussian directions that are orthogonal in blocks of as many as there are features (FAVOR+, section 3.1)."""
    blocks = []
    for _ in range(-(-number // features)):
        rotation, triangle = np.linalg.qr(rng.standard_normal((features, features)))
        rotation = rotation * np.sign(np.diag(triangle))  # uniform among rotations (Mezzadri 2007); without it the mean is biased
        blocks.append(rotation * np.linalg.norm(rng.standard_normal((features, features)), axis=1, keepdims=True))
    return torch.from_numpy(np.concatenate(blocks)[:number])


def latent(latents: Float[Tensor, "*#batch latent feature"]) -> Attention:
    """Attention through latents: each takes a mean of keys and values, and tokens attend to those means."""

    def attend(q: Features, k: Features, v: Values, causal: bool) -> Values:
        scale, sums = 1 / math.sqrt(q.shape[-1]), _sums(causal)
        logits = k @ latents.mT * scale  # token latent
        mass = (logits - logits.amax(-2, keepdim=True)).exp()
        total = (mass.cumsum(-2) if causal else mass.sum(-2, keepdim=True)).clamp(min=TINY)
        # q . z_k = sum_i mass_i (q . k_i) / total: a latent's mean key is never formed for each token
        weights = (sums(q, k, mass) / total * scale).softmax(-1)
        return sums(weights / total, mass, v)

    return attend


FIXED: dict[str, Attention] = {"softmax": softmax, "efficient": efficient, "elu": elu, "linear": linear}


def mechanism(name: str, projection: Tensor | None = None, latents: Tensor | None = None) -> Attention:
    """A mechanism by name; `performer` needs directions and `latent` latents."""
    if name == "performer":
        return performer(projection)
    return latent(latents) if name == "latent" else FIXED[name]


# How far a mechanism is from softmax attention


def softmax_error(attention: Attention, q: Features, k: Features, v: Values, causal: bool) -> float:
    """|attention - softmax attention| / |softmax attention|, Frobenius."""
    exact = softmax(q, k, v, causal)
    return float((attention(q, k, v, causal) - exact).norm() / exact.norm())
