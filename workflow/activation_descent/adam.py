"""Adam by the library's function, which works on each number alone, with its moments in plain view for checkpoints.

The library's class loads torch's compiler when the first one is made. That takes one to two seconds, as long as a short training.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma and Ba 2015), or AdamW with weight decay apart from the gradient (Loshchilov and Hutter 2019).

    Args:
        parameters: leaves, changed in place.
        betas: of the moving averages of the gradient and of its square.
        decay: weight decay; the rate times as much of each parameter is taken off in a step.
    """

    def __init__(
        self, parameters: Iterable[Tensor], betas: tuple[float, float] = (0.9, 0.999), decay: float = 0.0, epsilon: float = 1e-8
    ):
        self.parameters = list(parameters)
        self.betas, self.decay, self.epsilon = betas, decay, epsilon
        self.means = [torch.zeros_like(parameter, requires_grad=False) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter, requires_grad=False) for parameter in self.parameters]
        self.counts = [torch.zeros(()) for _ in self.parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step along the parameters' gradients, which are gone afterwards. A parameter without a gradient stays."""
        from torch.optim.adam import adam

        moved = [place for place, parameter in enumerate(self.parameters) if parameter.grad is not None]
        lists = ([every[place] for place in moved] for every in (self.parameters, self.means, self.squares, self.counts))
        parameters, means, squares, counts = lists
        adam(
            parameters,
            [_as_laid_out(parameter.grad, parameter) for parameter in parameters],
            means,
            squares,
            [],
            counts,
            fused=True,
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=rate,
            weight_decay=self.decay,
            eps=self.epsilon,
            maximize=False,
        )
        for parameter in parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """All tensors that a checkpoint needs, by name; views, so that a checkpoint can be copied into them."""
        state = {}
        for place, parameter in enumerate(self.parameters):
            names = ("weight", "exp_avg", "exp_avg_sq", "step")
            tensors = (parameter.data, self.means[place], self.squares[place], self.counts[place])
            state |= {f"{name}_{place}": tensor for name, tensor in zip(names, tensors, strict=True)}
        return state


def _as_laid_out(gradient: Tensor, parameter: Tensor) -> Tensor:
    """The function goes through memory as it lies. `backward` lays gradients out as their parameters are, `autograd.grad` does not."""
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
