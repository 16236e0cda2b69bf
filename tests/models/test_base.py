"""The contract of every model: its config, its tasks, and outputs of the shape of the data."""

import inspect

import pytest
import torch
from torch import Tensor

from src.config.locate import locate
from src.config.schema.model import ModelOption
from src.config.schema.registry import SCHEMAS
from src.core.data_spec import DataSpec
from src.models.base import Model

MODELS = {target: schema for target, schema in SCHEMAS["model"].items() if issubclass(schema, ModelOption)}
INPUTS = {
    "vector": (DataSpec("", "vector", (6,), ()), torch.randn(4, 6)),
    "image": (DataSpec("", "image", (2, 8, 6), ()), torch.randn(4, 2, 8, 6)),
    "sequence": (DataSpec("", "sequence", (7, 3), ()), torch.randn(4, 7, 3)),
    "tokens": (DataSpec("", "tokens", (7,), (), vocabulary_size=11, padding_id=0), torch.randint(1, 11, (4, 7))),
}
OUTPUTS = {
    "classification": (5,),
    "binary_classification": (),
    "regression": (2,),
    "forecasting": (3, 2),
    "tagging": (5,),
    "language_modelling": (11,),
    "translation": (13,),
}


PAIRS = [
    (target, task, kind)
    for target, schema in MODELS.items()
    for task in schema.tasks
    for kind in schema.inputs
    if task not in ("language_modelling", "translation") or kind == "tokens"
]


@pytest.mark.parametrize("target", MODELS)
def test_class_and_schema_agree(target: str) -> None:
    cls, schema = locate(target, Model), MODELS[target]
    assert (tuple(cls.tasks), tuple(cls.inputs)) == (schema.tasks, schema.inputs)
    assert set(inspect.signature(cls).parameters) - {"spec", "common"} == set(schema.model_fields) - {"target", "name"}


@pytest.mark.parametrize(("target", "task", "kind"), PAIRS)
def test_outputs_have_the_shape_of_the_data_and_all_parameters_get_gradients(target: str, task: str, kind: str) -> None:
    torch.manual_seed(0)
    spec, x = INPUTS[kind]
    plain = spec.to_plain() | {"task": task, "output_shape": OUTPUTS[task], "target_length": 6}
    model = locate(target, Model)(DataSpec.from_plain(plain))
    inputs: tuple[Tensor, ...] = (x, torch.randint(1, 13, (4, 5))) if task == "translation" else (x,)
    outputs = model(*inputs)
    steps = {"translation": (5,), "language_modelling": (7,), "tagging": (8,) if kind == "image" else (7,)}.get(
        task, ()
    )
    assert outputs.shape == (4, *steps, *OUTPUTS[task])
    outputs.square().sum().backward()
    untrained = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untrained == []


@pytest.mark.parametrize(("target", "task", "kind"), PAIRS)
def test_model_is_rebuilt_from_plain_spec_and_weights(target: str, task: str, kind: str) -> None:
    """As with a checkpoint: the state dict holds every number that the outputs depend on."""
    spec, x = INPUTS[kind]
    spec = DataSpec.from_plain(spec.to_plain() | {"task": task, "output_shape": OUTPUTS[task], "target_length": 6})
    model = locate(target, Model)(spec).eval()
    rebuilt = locate(target, Model)(spec.to_plain()).eval()
    rebuilt.load_state_dict(model.state_dict())
    inputs: tuple[Tensor, ...] = (x, x[:, :5]) if task == "translation" else (x,)
    assert torch.equal(model(*inputs), rebuilt(*inputs))
