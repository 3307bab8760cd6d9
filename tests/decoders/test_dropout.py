import pytest
import torch
from torch import nn

from capbench.decoders.base import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_drops_as_pytorchs_does(p: float, dtype: torch.dtype) -> None:
    """Of a million elements, as many to a 256th and chance; the mean stays, and so does the gradient."""
    torch.manual_seed(0)
    x = torch.ones(1000, 1001, dtype=dtype, requires_grad=True)
    dropped = Dropout(p)(x)
    share = float((dropped == 0).double().mean())
    assert share == pytest.approx(p, abs=1 / 512 + 0.003)
    assert float(dropped.double().mean()) == pytest.approx(1, abs=0.01)
    assert float((nn.Dropout(p)(x) == 0).double().mean()) == pytest.approx(share, abs=1 / 512 + 0.003)
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    torch.testing.assert_close(gradient, dropped.detach())


def test_neighbours_and_rows_are_dropped_apart() -> None:
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(2000, 64)) == 0).double()
    together = torch.corrcoef(dropped.T).fill_diagonal_(0)
    assert float(together.abs().max()) < 0.12


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_everything(p: float) -> None:
    x = torch.randn(5, 7)
    assert Dropout(p)(x).equal(x * (1 - p))
    assert Dropout(0.5).eval()(x).equal(x)


def test_the_seed_decides() -> None:
    x, found = torch.ones(33), []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(Dropout(0.5)(x))
    assert found[0].equal(found[1])
    assert not Dropout(0.5)(x).equal(found[0])
