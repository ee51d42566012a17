import pytest
import torch

from mvdiff.training.optimization import accumulation_steps, adamw, configure_optimizers, cosine_over_ten_epochs


@pytest.mark.parametrize(("total", "batch", "world", "steps"), [(4, 1, 1, 4), (4, 1, 4, 1), (12, 2, 3, 2)])
def test_accumulation_fills_the_total(total, batch, world, steps):
    assert accumulation_steps(total, batch, world) == steps


@pytest.mark.parametrize(("total", "batch", "world"), [(4, 3, 1), (4, 1, 8), (0, 1, 1), (-2, 1, 1)])
def test_an_indivisible_total_is_an_error(total, batch, world):
    with pytest.raises(ValueError, match=rf"{batch} x {world} = {batch * world}; got {total}"):
        accumulation_steps(total, batch, world)


def test_only_trainable_parameters_are_optimized():
    trained, frozen = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).requires_grad_(False)
    parameters = [*trained.parameters(), *frozen.parameters()]
    configured = configure_optimizers(parameters, adamw, cosine_over_ten_epochs, "step")
    assert configured["optimizer"].param_groups[0]["params"] == list(trained.parameters())
    assert configured["optimizer"].param_groups[0]["lr"] == 2e-4
    assert configured["lr_scheduler"]["interval"] == "step"
    assert set(configure_optimizers(parameters, adamw)) == {"optimizer"}


def test_the_default_schedule_is_a_cosine_to_1e_7():
    optimizer = adamw([torch.nn.Parameter(torch.zeros(1))])
    schedule = cosine_over_ten_epochs(optimizer)
    rates = []
    for _ in range(10):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert rates[4] == pytest.approx((2e-4 + 1e-7) / 2)  # half way down after five of ten epochs
    assert rates[9] == pytest.approx(1e-7)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="at least one trainable parameter"):
        configure_optimizers(torch.nn.Linear(2, 2).requires_grad_(False).parameters(), adamw)
