"""Members do not affect each other, continue separately, and use their own dropout rates."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from src.core.batches import LabelledBatch
from src.fused.population.population import Population
from src.optim.factory import build_optimizer
from tests.fused.population.conftest import Twins, _ordinary_step, stacked

BATCH_NORM = ["model=cnn", "regularization=batch_norm"]


def everything(twins: Twins, member: int) -> list[Tensor]:
    """Return copies of weights, buffers and optimizer state."""
    state = twins.optimizers[member].state_dict()["state"].values()
    return [*twins.models[member].state_dict().values(), *(tensor for buffers in state for tensor in buffers.values())]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_diverging_member_does_not_change_the_others_by_one_bit(twins: Callable[..., Twins]) -> None:
    overrides = [*BATCH_NORM, "regularization.gradient_clip_norm=1.0", "optimizer=adamw"]
    healthy, ill = (twins(*overrides, dtype=torch.float32) for _ in range(2))
    with torch.no_grad():
        next(ill.models[1].parameters())[0] = torch.nan
    populations = [Population(pair.models, pair.optimizers) for pair in (healthy, ill)]
    for batches in healthy.batches(10):
        losses, with_ill = (population.step(stacked(batches)) for population in populations)
        assert with_ill[1].isnan()
        assert torch.equal(losses[[0, 2]], with_ill[[0, 2]])
    for member in (0, 2):
        assert_same(everything(healthy, member), everything(ill, member))
    assert any(tensor.isnan().any() for tensor in everything(ill, 1))


@pytest.mark.parametrize("optimizer", ["adamw", "nadam", "momentum", "adabound"])
def test_stopped_member_is_unchanged_and_the_others_continue(twins: Callable[..., Twins], optimizer: str) -> None:
    pair = twins(*BATCH_NORM, f"optimizer={optimizer}")
    population = Population(pair.models, pair.optimizers)
    for batches in pair.batches(4):
        population.step(stacked(batches))
        pair.step_separately(batches)
    stopped = everything(pair, 1)
    population.select([0, 2])
    assert population.members == (0, 2)
    state = [x for buffers in pair.optimizers[1].state.values() for x in buffers.values() if torch.is_tensor(x)]
    for tensor in [*pair.models[1].parameters(), *pair.models[1].buffers(), *state]:
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, "a view would keep the whole stack in memory"
    for batches in pair.batches(6):
        losses = population.step(stacked([batches[0], batches[2]]))
        separate = torch.stack(
            [_ordinary_step(pair.separate[k], pair.separate_optimizers[k], batches[k]) for k in (0, 2)]
        )
        torch.testing.assert_close(losses, separate, rtol=1e-10, atol=1e-10)
    assert_same(stopped, everything(pair, 1))
    pair.assert_equal(1e-9)
    population.select([2])
    assert population.step(stacked([batches[2]])).shape == (1,)


@pytest.mark.parametrize(
    "optimizer", ["sgd", "momentum", "adamw", "nadam", "adagrad", "adabound", "lion", "rmsprop_textbook"]
)
def test_checkpoint_of_a_member_continues_separately_and_in_a_new_population(
    twins: Callable[..., Twins], optimizer: str, tmp_path: Path
) -> None:
    """Checkpoints of members are loaded into their own optimizers, and these into a new population."""
    pair = twins("model=resnet", f"optimizer={optimizer}")
    population = Population(pair.models, pair.optimizers)
    for batches in pair.batches(5):
        population.step(stacked(batches))
        pair.step_separately(batches)
    models, optimizers = [], []
    for number, (model, optimizer_of_member) in enumerate(zip(pair.models, pair.optimizers, strict=True)):
        file = tmp_path / f"{number}.ckpt"
        torch.save({"model": model.state_dict(), "optimizer": optimizer_of_member.state_dict()}, file)
        numbers = sum(x.numel() for x in everything(pair, number))
        assert file.stat().st_size < 8 * numbers + 60_000  # smaller than the whole stack
        saved = torch.load(file, weights_only=True)
        models.append(deepcopy(pair.separate[number]))
        models[-1].load_state_dict(saved["model"])
        optimizers.append(build_optimizer(models[-1], model.training_config))
        optimizers[-1].load_state_dict(saved["optimizer"])
    pair.models, pair.optimizers = models, optimizers
    for batches in pair.batches(5):
        for member in zip(models, optimizers, batches, strict=True):
            _ordinary_step(*member)
        pair.step_separately(batches)
    again = Population(models, optimizers)
    for batches in pair.batches(5):
        again.step(stacked(batches))
        pair.step_separately(batches)
    pair.assert_equal(1e-10)


def test_members_at_different_steps_train_together(twins: Callable[..., Twins]) -> None:
    pair = twins("model=mlp", "optimizer=adam")
    for batches in pair.batches(7):  # only the first member has trained before
        for models, optimizers in ((pair.models, pair.optimizers), (pair.separate, pair.separate_optimizers)):
            _ordinary_step(models[0], optimizers[0], batches[0])
    population = Population(pair.models, pair.optimizers)
    for batches in pair.batches(7):
        population.step(stacked(batches))
        pair.step_separately(batches)
    pair.assert_equal(1e-10)


@pytest.mark.parametrize("model", ["mlp", "resnet", "lstm", "transformer"])
def test_members_stay_close_to_separate_runs_in_single_precision(twins: Callable[..., Twins], model: str) -> None:
    """The order of sums differs: 1e-4 of the loss after 30 steps, as between separate runs on different machines."""
    pair = twins(f"model={model}", "optimizer=sgd", "optimizer.lr=0.05", dtype=torch.float32)
    population = Population(pair.models, pair.optimizers)
    for batches in pair.batches(30):
        losses = population.step(stacked(batches, pair.models[0].spec.padding_id))
        torch.testing.assert_close(losses, pair.step_separately(batches), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["mlp", "cnn", "gru", "transformer"])
def test_outputs_equal_those_of_each_model_in_evaluation(twins: Callable[..., Twins], model: str) -> None:
    pair = twins(f"model={model}", "regularization.dropout=0.5")
    population = Population(pair.models, pair.optimizers)
    padding = pair.models[0].spec.padding_id
    for batches in pair.batches(3):
        population.step(stacked(batches, padding))
    (batches,) = pair.batches(1)
    outputs, shared_outputs = (
        population.outputs(stacked(batches, padding)),
        population.outputs(batches[0], stacked=False),
    )
    for number, single_model in enumerate(pair.models):
        single_model.eval()
        all_batches = stacked(batches, padding)
        batch = type(all_batches)(*(tensor[number] for tensor in all_batches))
        torch.testing.assert_close(outputs[number], single_model(*batch.inputs), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(shared_outputs[number], single_model(*batches[0].inputs), rtol=1e-10, atol=1e-10)


def test_members_may_share_a_batch(twins: Callable[..., Twins]) -> None:
    pair = twins("model=mlp")
    population = Population(pair.models, pair.optimizers)
    for batches in pair.batches(5):
        losses = population.step(batches[0], stacked=False)
        torch.testing.assert_close(losses, pair.step_separately([batches[0]] * 3), rtol=1e-10, atol=1e-10)


# ---- Dropout ---------------------------------------------------------------------------------------------------


RATES = (0.0, 0.2, 0.6)
DRAWS = 150


@pytest.mark.parametrize(
    ("overrides", "knob"),
    [
        (["model=mlp"], "dropout"),
        (["model=mlp"], "drop_connect"),
        pytest.param(["model=cnn"], "spatial_dropout", marks=pytest.mark.slow),
        pytest.param(["model=resnet"], "stochastic_depth", marks=pytest.mark.slow),
        pytest.param(["model=lstm", "datamodule=digits", "model.num_layers=2"], "dropout", marks=pytest.mark.slow),
        pytest.param(["model=gru", "datamodule=digits"], "drop_connect", marks=pytest.mark.slow),
        pytest.param(
            ["model=gru", "datamodule=digits", "model.cell=textbook", "model.num_layers=2"],
            "dropout",
            marks=pytest.mark.slow,
        ),
        pytest.param(["model=transformer", "datamodule=digits"], "dropout", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_each_member_has_its_own_dropout_rate(twins: Callable[..., Twins], overrides: list[str], knob: str) -> None:
    """Mean and standard deviation of many losses with the same weights are those of the separate model."""
    pair = twins(*overrides, "optimizer=sgd", each=[[f"regularization.{knob}={rate}"] for rate in RATES])
    for optimizer in pair.optimizers + pair.separate_optimizers:
        optimizer.param_groups[0]["lr"] = 0.0
    population = Population(pair.models, pair.optimizers)
    (batches,) = pair.batches(1)
    fused_losses = torch.stack([population.step(stacked(batches)) for _ in range(DRAWS)])
    separate = torch.stack([pair.step_separately(batches) for _ in range(DRAWS)])
    assert torch.equal(fused_losses[:, 0], fused_losses[:1, 0].expand(DRAWS))  # rate 0
    for member in (1, 2):
        errors = (fused_losses[:, member].var() + separate[:, member].var()).div(DRAWS).sqrt()
        assert (fused_losses[:, member].mean() - separate[:, member].mean()).abs() < 5 * errors
        assert 0.7 < fused_losses[:, member].std() / separate[:, member].std() < 1.4
    assert len(fused_losses[:, 1].unique()) > 1


def test_members_with_equal_rates_and_weights_have_different_masks(twins: Callable[..., Twins]) -> None:
    pair = twins("model=mlp", "regularization.dropout=0.5", each=[["seed=1"]] * 3)
    population = Population(pair.models, pair.optimizers)
    (batches,) = pair.batches(1)
    assert len(population.step(batches[0], stacked=False).unique()) == 3


def test_dropout_rate_is_the_share_of_dropped_elements() -> None:
    from src.fused.layers.dropout import MemberDropout

    layer = MemberDropout()
    layer.rate = torch.tensor(0.3)
    dropped = layer(torch.ones(200_000))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.005)
    assert torch.equal(layer.eval()(torch.ones(9)), torch.ones(9))


# ---- Models that cannot be trained as one ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "other", "named"),
    [
        (["model=mlp"], ["model.hidden_sizes=[8,7]"], "layers.3.weight: .6, 8. and .7, 8."),
        (
            ["model=mlp", "regularization.dropout=0.1"],
            ["regularization.dropout=0.0", "regularization.drop_connect=0.1"],
            "dropout at different positions",
        ),
        (["model=mlp"], ["optimizer.amsgrad=true"], "amsgrad"),
    ],
)
def test_incompatible_models_are_rejected(
    twins: Callable[..., Twins], overrides: list[str], other: list[str], named: str
) -> None:
    pair = twins(*overrides, each=[[], other])
    with pytest.raises(ValueError, match=named):
        Population(pair.models, pair.optimizers)


def test_parameter_without_a_gradient_is_named(twins: Callable[..., Twins]) -> None:
    pair = twins("model=mlp")
    for model in pair.models:
        model.register_parameter("idle", torch.nn.Parameter(torch.zeros(2, dtype=torch.float64)))
    optimizers = [build_optimizer(model, model.training_config) for model in pair.models]
    (batches,) = pair.batches(1)
    with pytest.raises(ValueError, match="idle"):
        Population(pair.models, optimizers).step(stacked(batches))
    assert isinstance(batches[0], LabelledBatch)
