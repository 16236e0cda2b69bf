"""Recurrent networks: vanilla RNN, LSTM and GRU on torch's kernels (textbook, Recurrent Neural Networks)."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from src.errors import UserError
from src.layers.drop import dropped_state_weights
from src.layers.sampling import DEFAULT_NEW_TOKENS, next_token
from src.layers.sequences import Embedded
from src.models.base import Model
from src.spec import DataSpec


class Recurrent(Model):
    """Reads a sequence step by step; answers from the last state, or at every step for language modelling.

    Images are read row by row. Where lengths are given, padding changes nothing.

    Args:
        spec: the data.
        hidden_size: width of the state, in each direction.
        num_layers: layers on top of each other.
        bidirectional: read backwards too.
        initial_state: ``zero`` or ``learned``.
        embedding_size: width of a token's embedding; numbers are read as they are.
        dropout: probability to drop a unit between layers and before the output.
        drop_connect: probability to drop a hidden-to-hidden weight, for all steps of a batch alike.

    Raises:
        UserError: for a bidirectional language model, which would see the token that it predicts.
    """

    tasks = ("classification", "binary_classification", "regression", "forecasting", "language_modelling")
    inputs = ("image", "sequence", "tokens")
    core: ClassVar[type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]]

    def __init__(
        self,
        spec: DataSpec,
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = False,
        initial_state: str = "zero",
        embedding_size: int = 64,
        dropout: float = 0.0,
        drop_connect: float = 0.0,
    ) -> None:
        super().__init__(spec)
        self.every_step = self.spec.task == "language_modelling"
        if bidirectional and self.every_step:
            raise UserError("model.bidirectional=true: a language model that reads backwards sees what it predicts")
        self.embed = Embedded(self.spec, embedding_size, project=False)
        self.recurrent = self.core(
            self.embed.size,
            hidden_size,
            num_layers,
            batch_first=True,
            bidirectional=bidirectional,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        directions = 2 if bidirectional else 1
        self.start: nn.ParameterList | None = None
        if initial_state == "learned":
            states = 2 if isinstance(self.recurrent, nn.LSTM) else 1
            shape = (num_layers * directions, 1, hidden_size)
            self.start = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for _ in range(states))
        self.drop_connect = drop_connect
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size * directions, self.spec.output_size)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Map sequences to outputs.

        Args:
            x: [B, T, F], an image [B, C, H, W], or tokens [B, T].
            lengths: [B] valid steps of each sequence; by default all, without the padding at the end of tokens.

        Returns:
            [B, *output_shape]; logits [B, T, V] of every step for language modelling.
        """
        if self.every_step:
            return self.output(self.dropout(self._run(x)[0]))
        if lengths is None and self.spec.inputs == "tokens" and self.spec.padding_id is not None:
            lengths = (x != self.spec.padding_id).sum(1).clamp(min=1)
        state = self._run(x, lengths)[1]
        hidden = state[0] if isinstance(state, tuple) else state
        last = torch.cat(tuple(hidden[-2:]), -1) if self.recurrent.bidirectional else hidden[-1]
        return self.output(self.dropout(last)).reshape(x.size(0), *self.spec.output_shape)

    def _run(self, x: Tensor, lengths: Tensor | None = None, state: Any = None) -> tuple[Tensor, Any]:
        """Return the top layer's states at every step [B, T, hidden_size · directions], and the state of each layer and
        direction after its last valid step [layers · directions, B, hidden_size] (for an LSTM with its cell state).
        """
        steps = self.embed(x)
        if state is None:
            state = self._initial(x.size(0))
        with dropped_state_weights(self.recurrent, self.drop_connect):
            if lengths is None:
                return self.recurrent(steps, state)
            packed = pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
            outputs, state = self.recurrent(packed, state)
        return pad_packed_sequence(outputs, batch_first=True, total_length=steps.size(1))[0], state

    def _initial(self, batch_size: int) -> Any:
        if self.start is None:
            return None
        states = tuple(state.expand(-1, batch_size, -1).contiguous() for state in self.start)
        return states if len(states) == 2 else states[0]

    @torch.no_grad()
    def generate(self, inputs: Tensor, max_new_tokens: int | None = None, temperature: float = 0.0) -> Tensor:
        tokens, state = inputs, None
        generated = inputs[:, :0]
        for _ in range(DEFAULT_NEW_TOKENS if max_new_tokens is None else max_new_tokens):
            outputs, state = self._run(tokens, state=state)
            tokens = next_token(self.output(outputs[:, -1]), temperature).unsqueeze(1)
            generated = torch.cat((generated, tokens), 1)
        return generated


class RNN(Recurrent):
    """h_t = tanh(W_hh h_{t-1} + W_xh x_t + b_h)."""

    core = nn.RNN


class LSTM(Recurrent):
    """Long short-term memory: forget, input and output gates around a cell state."""

    core = nn.LSTM


class GRU(Recurrent):
    """Gated recurrent unit, in torch's form; the textbook's puts the reset gate before the product (erratum E7)."""

    core = nn.GRU
