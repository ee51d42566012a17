import pytest
import torch

from mvdiff.training.optimization import OptimizedModule, accumulation_steps, adamw


@pytest.mark.parametrize(("total", "batch", "world", "steps"), [(4, 1, 1, 4), (4, 1, 4, 1), (12, 2, 3, 2)])
def test_accumulation_fills_the_total(total, batch, world, steps):
    assert accumulation_steps(total, batch, world) == steps


@pytest.mark.parametrize(("total", "batch", "world"), [(4, 3, 1), (4, 1, 8), (0, 1, 1), (-2, 1, 1)])
def test_an_indivisible_total_is_an_error(total, batch, world):
    with pytest.raises(ValueError, match=rf"{batch} x {world} = {batch * world}; got {total}"):
        accumulation_steps(total, batch, world)


class Pair(OptimizedModule):
    optimizer, lr_scheduler, lr_interval = staticmethod(adamw), None, "step"

    def __init__(self, trained):
        super().__init__()
        self.one, self.other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.one.requires_grad_(trained)
        self.other.requires_grad_(False)


def test_only_trainable_parameters_are_optimized():
    module = Pair(True)
    configured = module.configure_optimizers()
    (group,) = configured["optimizer"].param_groups
    assert (group["params"], group["lr"]) == (list(module.one.parameters()), 2e-4)
    assert set(configured) == {"optimizer"}


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="at least one trainable parameter"):
        Pair(False).configure_optimizers()
