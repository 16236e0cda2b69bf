"""Recurrent networks: vanilla RNN, LSTM and GRU (textbook, Recurrent Neural Networks)."""

from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from src.core.batches import Batch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.layers.dropout import drop_state_weights
from src.layers.input_embedding import InputEmbedding
from src.layers.recurrent_cells import Cell, GRUCell, InitialState, LSTMCell, RecurrentLayers, RNNCell
from src.layers.token_sampling import DEFAULT_NEW_TOKENS, next_token
from src.models.base import Model


class Recurrent(Model):
    """Reads a sequence step by step; predicts from the last state, or at every step for language modelling and tagging.

    Images are read row by row. With lengths, padding has no effect. With `spec.stateful`, the state after a batch is the
    initial state of the next one, without its gradient (truncated BPTT).

    Args:
        spec: the data.
        cell: ``torch`` for torch's kernels, ``textbook`` for the textbook's equations; they differ for the GRU (E7).
        hidden_size: width of the state, in each direction.
        num_layers: number of stacked layers.
        bidirectional: read backwards too.
        initial_state: ``zero`` or ``learned``.
        embedding_size: width of a token's embedding; numbers are not embedded.
        dropout: probability to drop a unit between layers and before the output.
        drop_connect: probability to drop a hidden-to-hidden weight, with one mask for all steps of a batch.

    Raises:
        UserError: for a bidirectional language model, which would see the token that it predicts; for drop_connect with
            textbook cells.
        common: arguments of `Model`.
    """

    tasks = ("classification", "binary_classification", "regression", "forecasting", "tagging", "language_modelling")
    inputs = ("image", "sequence", "tokens")
    supports_stateful = True
    torch_class: ClassVar[type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]]
    """torch's module."""
    textbook_cell: ClassVar[type[Cell]]
    """The cell with the textbook's equations."""

    def __init__(
        self,
        spec: DataSpec,
        cell: str = "torch",
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = False,
        initial_state: str = "zero",
        embedding_size: int = 64,
        dropout: float = 0.0,
        drop_connect: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        self.every_step = self.spec.task in ("language_modelling", "tagging")
        if bidirectional and self.spec.task == "language_modelling":
            raise UserError("model.bidirectional=true: a language model that reads backwards sees what it predicts")
        if bidirectional and self.spec.stateful:
            raise UserError("model.bidirectional=true: a network that reads backwards has no state to carry forward")
        if drop_connect and cell == "textbook":
            raise UserError("regularization.drop_connect supports torch's kernels only: set model.cell=torch")
        self.embed = InputEmbedding(self.spec, embedding_size, project=False)
        shape: Any = {
            "input_size": self.embed.size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "bidirectional": bidirectional,
            "dropout": dropout if num_layers > 1 else 0.0,
        }
        self.recurrent: nn.Module
        if cell == "textbook":
            self.recurrent = RecurrentLayers(self.textbook_cell, **shape)
        else:
            self.recurrent = self.torch_class(**shape, batch_first=True)
        self.directions = 2 if bidirectional else 1
        self.start: InitialState | None = None
        if initial_state == "learned":
            self.start = InitialState(num_layers * self.directions, hidden_size, self.textbook_cell.num_states)
        self.drop_connect = drop_connect
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size * self.directions, self.spec.output_size)
        self.carried: dict[str, Any] = {}

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map sequences to outputs.

        Args:
            x: [B, T, F], an image [B, C, H, W], or tokens [B, T].
            lengths: [B] valid steps of each sequence; by default all steps, without the padding at the end of tokens.

        Returns:
            [B, *output_shape]; logits [B, T, V] of every step for language modelling and tagging.
        """
        if lengths is None and self.spec.inputs == "tokens" and self.spec.padding_id is not None:
            lengths = (x != self.spec.padding_id).sum(1).clamp(min=1)
        return self.readout(*self.read(self.embed(x), lengths))

    def readout(self, outputs: Tensor, state: Any) -> Tensor:
        """Return the outputs of `forward` from the results of `read`."""
        if self.every_step:
            return self.output(self.dropout(outputs))
        hidden = state[0] if isinstance(state, tuple) else state
        last = torch.cat(tuple(hidden[-2:]), -1) if self.directions == 2 else hidden[-1]
        return self.output(self.dropout(last)).reshape(outputs.size(0), *self.spec.output_shape)

    def read(self, steps: Tensor, lengths: Tensor | None = None, state: Any = None) -> tuple[Tensor, Any]:
        """Return the top layer's states at every step [B, T, hidden_size · directions], and the state of each layer and
        direction after its last valid step [layers · directions, B, hidden_size] (for an LSTM also its cell state).

        Args:
            steps: embedded inputs [B, T, F].
            lengths: as in `forward`.
            state: the state before the first step, shaped as the returned state; by default the initial state.
        """
        if state is None and self.start is not None:
            state = self.start.for_batch(steps.size(0))
        if isinstance(self.recurrent, RecurrentLayers):
            return self.recurrent(steps, state, lengths)
        recurrent = cast(nn.RNNBase, self.recurrent)
        if lengths is None:
            return drop_state_weights(recurrent, self.drop_connect, steps, state)  # type: ignore[no-any-return]
        packed = pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, state = drop_state_weights(recurrent, self.drop_connect, packed, state)
        return pad_packed_sequence(outputs, batch_first=True, total_length=steps.size(1))[0], state

    # ---- stateful training: the state is carried from batch to batch (truncated BPTT) ----------------------------

    def forward_batch(self, batch: Batch, split: str) -> Tensor:
        if not self.spec.stateful:
            return super().forward_batch(batch, split)
        (x,) = batch.inputs
        state = self.carried.get(split)
        if state is not None:  # the last batch may have fewer rows: the last streams have ended
            state = _map_state(state, lambda part: part[:, : x.size(0)].contiguous())
        outputs, state = self.read(self.embed(x), state=state)
        self.carried[split] = _map_state(state, Tensor.detach)
        return self.readout(outputs, state)

    def mid_epoch_state(self) -> dict[str, Any]:
        return super().mid_epoch_state() | {"carried": self.carried.get("train")}

    def load_mid_epoch_state(self, state: dict[str, Any]) -> None:
        super().load_mid_epoch_state(state)
        carried = state.get("carried")
        if carried is not None and self.trainer.fit_loop.restarted_mid_epoch:  # an epoch begins without a state
            self._check_carried(carried)
            self.carried["train"] = _map_state(carried, lambda part: part.to(self.device))

    def _check_carried(self, carried: Any) -> None:
        """Raise `ValueError` unless a recorded state fits this model and its batches."""
        parts = carried if isinstance(carried, tuple) else (carried,)
        shape = (
            self.recurrent.num_layers * self.directions,  # type: ignore[operator]
            self.trainer.datamodule.batch_size,  # type: ignore[attr-defined]
            self.recurrent.hidden_size,
        )
        mixed = str(self.trainer.precision).endswith("-mixed")
        dtypes = {self.dtype, *((torch.float16, torch.bfloat16, torch.float32) if mixed else ())}
        if len(parts) != self.textbook_cell.num_states or isinstance(carried, tuple) != (len(parts) > 1):
            raise ValueError(f"the carried state of its model has {len(parts)} parts")
        for part in parts:
            if not isinstance(part, Tensor) or part.shape != shape or part.dtype not in dtypes:
                raise ValueError(
                    f"the carried state of its model does not have the model's type and shape {list(shape)}"
                )

    def on_train_epoch_start(self) -> None:
        self.carried.pop("train", None)

    def on_validation_epoch_start(self) -> None:
        self.carried.pop("val", None)

    def on_test_epoch_start(self) -> None:
        self.carried.pop(self.evaluated_split, None)

    # ---- generation ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate_stream(
        self,
        inputs: Tensor,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Iterator[Tensor]:
        tokens, state = inputs, None
        for _ in range(DEFAULT_NEW_TOKENS if max_new_tokens is None else max_new_tokens):
            outputs, state = self.read(self.embed(tokens), state=state)
            logits = self.output(outputs[:, -1])
            logits[:, : self.spec.reserved_tokens] = -torch.inf
            chosen = next_token(logits, temperature, top_k, top_p)
            yield chosen
            tokens = chosen.unsqueeze(1)


def _map_state(state: Any, function: Any) -> Any:
    return tuple(map(function, state)) if isinstance(state, tuple) else function(state)


class RNN(Recurrent):
    """h_t = tanh(W_hh h_{t-1} + W_xh x_t + b_h)."""

    torch_class = nn.RNN
    textbook_cell = RNNCell


class LSTM(Recurrent):
    """Long short-term memory: forget, input and output gates around a cell state."""

    torch_class = nn.LSTM
    textbook_cell = LSTMCell


class GRU(Recurrent):
    """Gated recurrent unit: two gates and a single state."""

    torch_class = nn.GRU
    textbook_cell = GRUCell
