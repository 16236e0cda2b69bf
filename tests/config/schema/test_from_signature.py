"""Classes without a schema are checked against the signatures of their constructors."""

import inspect
from typing import TYPE_CHECKING, Any

import pytest
import pytorch_optimizer
import torch
from omegaconf import OmegaConf
from pydantic import ValidationError

from src.config.compose import compose
from src.config.schema.base import Option
from src.config.schema.from_signature import schema_of_class
from src.config.schema.registry import SCHEMAS
from src.config.schema.run import Config
from src.config.validate import check
from src.core.errors import UserError
from src.models.mlp import MLP

if TYPE_CHECKING:
    from decimal import Decimal

OPTIMIZERS = {
    f"{module.__name__}.{name}": cls
    for module in (torch.optim, pytorch_optimizer)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and "lr" in inspect.signature(cls).parameters
}
UNLISTED = [t for t in OPTIMIZERS if t.startswith("torch.") and t not in SCHEMAS["optimizer"]]


def validated(group: str, **option: Any) -> Config:
    cfg = OmegaConf.to_container(compose([]), resolve=False)
    assert isinstance(cfg, dict)
    return check(OmegaConf.create({**cfg, group: option}))


@pytest.mark.parametrize("target", OPTIMIZERS)
def test_any_optimizer_can_be_an_option(target: str) -> None:
    schema = schema_of_class(OPTIMIZERS[target], Option, {"params"})
    required = {name: None for name, field in schema.model_fields.items() if field.is_required()}
    values = {"_target_": target, "name": "mine", "lr": 0.5}
    with pytest.raises(ValidationError, match="lr"):
        schema.model_validate(required | values | {"lr": "abc"})
    if set(required) == {"target", "name"}:
        assert schema.model_validate(values).arguments()["lr"] == 0.5


@pytest.mark.parametrize("target", UNLISTED)
def test_torch_optimizer_is_built_from_its_arguments(target: str) -> None:
    decay = {"weight_decay": 0.0} if "weight_decay" in inspect.signature(OPTIMIZERS[target]).parameters else {}
    option = validated("optimizer", _target_=target, **decay).optimizer
    OPTIMIZERS[target]([torch.nn.Parameter(torch.ones(2, 2))], **option.arguments())


class Wider(MLP):
    """Set one argument of the base class, add one, and pass the others on."""

    def __init__(self, spec: Any, extra: int = 1, **kwargs: Any) -> None:
        super().__init__(spec, activation="tanh", **kwargs)


WIDER = f"{__name__}.Wider"


def test_subclass_accepts_the_keys_of_its_base() -> None:
    model = validated("model", _target_=WIDER, hidden_sizes=[8], extra=2).model
    arguments = model.arguments()
    assert arguments["hidden_sizes"] == [8] and arguments["extra"] == 2
    assert "activation" not in arguments, (
        "an argument that the class may pass itself is included only if the config sets it"
    )
    assert check(validated("model", _target_=WIDER, hidden_sizes=[8]).plain()).model.arguments() == arguments | {
        "extra": 1
    }


def test_unknown_key_of_a_subclass_suggests_a_key_of_its_base() -> None:
    with pytest.raises(UserError, match="Did you mean 'hidden_sizes'"):
        validated("model", _target_=WIDER, hiden_sizes=[8])
    with pytest.raises(UserError, match=r"model.hidden_sizes\[0\]=wide: must be a valid integer"):
        validated("model", _target_=WIDER, hidden_sizes=["wide"])


def test_type_imported_for_type_checkers_only_is_any() -> None:
    class Imports:
        def __init__(self, lr: float, amount: "Decimal | None" = None) -> None: ...

    schema = schema_of_class(Imports, Option, ())
    assert schema.model_fields["amount"].annotation is Any
    with pytest.raises(ValidationError, match="lr"):
        schema.model_validate({"_target_": "x", "name": "x", "lr": "abc"})
