"""Adam against the library's classes, to the last digit."""

import subprocess
import sys

import pytest
import torch

from activation_descent.adam import Adam


@pytest.mark.parametrize(
    ("decay", "betas", "theirs"), [(0.0, (0.9, 0.999), torch.optim.Adam), (0.1, (0.9, 0.98), torch.optim.AdamW)]
)
def test_steps_are_those_of_the_library(decay, betas, theirs):
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3), (5,))
    first = [torch.randn(shape, generator=generator) for shape in shapes]
    mine, others = ([start.clone().requires_grad_() for start in first] for _ in range(2))
    adam, optimiser = Adam(mine, betas, decay), theirs(others, betas=betas, weight_decay=decay, fused=True)
    for step in range(5):
        for parameters in (mine, others):
            for parameter, start in zip(parameters, first, strict=True):
                parameter.grad = torch.sin(step * start)
        optimiser.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimiser.step()
        adam.step(0.1 / (step + 1))
        assert all(map(torch.equal, mine, others))
        assert all(parameter.grad is None for parameter in mine)


def test_a_parameter_without_a_gradient_stays():
    one, other = (torch.ones(2, requires_grad=True) for _ in range(2))
    one.grad = torch.ones(2)
    Adam([one, other], decay=0.1).step(0.5)
    torch.testing.assert_close(one.detach(), torch.full((2,), 0.45))  # 1 - .5 * .1 - .5: the first step is the rate's
    assert other.tolist() == [1, 1]


def test_a_gradient_of_another_layout_in_memory():
    one, other = (torch.zeros(2, 3, requires_grad=True) for _ in range(2))
    one.grad = torch.tensor([[1.0, -1.0], [1.0, -1.0], [1.0, 1.0]]).T
    other.grad = one.grad.contiguous()
    for parameter in (one, other):
        Adam([parameter]).step(0.5)
    torch.testing.assert_close(one.detach(), -0.5 * torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]]))
    assert torch.equal(one, other)


def test_a_state_put_back_goes_on_as_if_nothing_had_happened():
    def run(steps, adam):
        for step in steps:
            for parameter in adam.parameters:
                parameter.grad = torch.cos(parameter.detach() + step)
            adam.step(0.1)
        return adam

    whole, before, after = (Adam([torch.ones(3, requires_grad=True)]) for _ in range(3))
    run(range(6), whole)
    for name, tensor in run(range(3), before).state().items():
        after.state()[name].copy_(tensor)
    run(range(3, 6), after)
    assert torch.equal(whole.parameters[0], after.parameters[0])


def test_the_compiler_is_not_loaded():
    """It is what the library's class costs: more than a second in each process."""
    program = (
        "import sys, torch; from activation_descent.adam import Adam; p = torch.ones(1, requires_grad=True); p.grad = torch.ones(1); "
        "Adam([p]).step(.1); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
