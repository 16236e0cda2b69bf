"""The adding problem and the copy task ask for what they say, and tell what they cannot read."""

import pytest
import torch

from src.core.errors import UserError
from src.datamodules.synthetic.adding import Adding
from src.datamodules.synthetic.copy_task import Copy


@pytest.mark.req("R7")
def test_target_is_the_sum_of_the_two_marked_numbers() -> None:
    data = Adding(lag=7, train_size=500, val_size=50, test_size=60)
    for name, size in {"train": 500, "val": 50, "test": 60}.items():
        x, y = data.split(name)
        assert x.shape == (size, 17, 2) and y.shape == (size, 1)
        values, marks = x.double().unbind(-1)
        assert ((values >= 0) & (values <= 1)).all() and set(marks.unique().tolist()) == {0.0, 1.0}
        assert (marks[:, :10].sum(1) == 1).all() and (marks[:, 10:].sum(1) == 1).all()
        torch.testing.assert_close((values * marks).sum(1).float(), y[:, 0])
    assert (data.split("train")[0][..., 1].sum(0) > 10).all()  # every place is marked
    assert data.baseline()["test/loss"] == pytest.approx(1 / 6, rel=0.3)
    assert not torch.equal(data.split("val")[0], data.split("train")[0][:50])


def test_split_seed_determines_the_sequences() -> None:
    one, same, other = (Adding(lag=5, split_seed=seed).split("train")[0] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.1*,0.2*", "2 numbers where 12 are expected"),
        (",".join(["0.5*"] * 3 + ["0.5"] * 9), "3 numbers are marked"),
        (",".join(["0.5*", "x*"] + ["0.5"] * 10), "'x' is not a number"),
    ],
)
def test_invalid_inputs_of_the_adding_problem_are_rejected(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Adding(lag=2).encode([text])


def test_example_inputs_encode_to_the_test_split() -> None:
    data = Adding(lag=2, test_size=20)
    batch = data.encode(data.example_inputs(2))
    torch.testing.assert_close(batch[0], data.split("test")[0][:2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("data", [Adding(lag=10**9), Copy(lag=10**9)], ids=["adding", "copy"])
def test_too_much_generated_data_is_refused(data: Adding | Copy) -> None:
    with pytest.raises(
        UserError, match=r"datamodule.lag=1000000000 with 7,900 sequences: .* GB of generated data; at most"
    ):
        data.split("train")


@pytest.mark.req("R3", "R7")
def test_copy_targets_follow_the_call_token() -> None:
    data = Copy(lag=4, symbols=3, train_size=200)
    x, y = data.split("train")
    assert x.shape == y.shape == (200, 11)
    assert (x[:, :3] < 8).all() and (x[:, 3:7] == 8).all() and (x[:, 7] == 9).all() and (x[:, 8:] == 8).all()
    assert torch.equal(y[:, 8:], x[:, :3]) and (y[:, :8] == -100).all()
    assert data.baseline()["test/accuracy"] == pytest.approx(1 / 8, abs=0.05)
    assert torch.equal(data.encode(["318"])[0][0], torch.tensor([2, 0, 7, 8, 8, 8, 8, 9, 8, 8, 8]))
    assert data.decode_predictions([{"prediction": "1 1 1 1 1 1 1 1 3 1 8"}]) == [{"prediction": "318"}]
    for text in ("31", "319", "abc"):
        with pytest.raises(UserError, match="3 digits from 1 to 8"):
            data.encode([text])
