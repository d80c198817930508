"""From an encoded window to its horizon: all steps in parallel, beside a simple path that the network corrects."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from birnn_forecast.nn.recurrent import BidirectionalEncoder


class HorizonDecoder(nn.Module):
    """Decode every step of the horizon at once; no step waits for another, so errors do not add up.

    Each step gets a code of its own: a dense layer of the window's code plus a map, shared by the steps, of the
    encoder's state one horizon earlier. Next to it stands what a small bidirectional GRU read from the known future
    covariates, and a network shared by the steps turns both into the raw parameters.

    Parameters
    ----------
    code_size
        Size of the window's code.
    state_size
        Size of the encoder's states.
    horizon
        Number of steps to decode.
    output_size
        Raw parameters per step.
    future_size
        Features of the known future covariates per step, 0 for none.
    step_size
        Size of a step's code.
    reader_size
        Units, per direction, of the reader of the future covariates.
    hidden_sizes
        Hidden layers of the shared network.
    activation
        Name of a ``torch.nn`` activation.
    dropout
        Share of units dropped after each hidden layer.
    start_at_zero
        Whether the output starts as exactly 0 for every input (for use beside a skip path).
    """

    def __init__(
        self,
        code_size: int,
        state_size: int,
        horizon: int,
        output_size: int,
        future_size: int = 0,
        step_size: int = 16,
        reader_size: int = 16,
        hidden_sizes: Sequence[int] = (),
        activation: str = "ReLU",
        dropout: float = 0.0,
        start_at_zero: bool = False,
    ):
        super().__init__()
        self.horizon = horizon
        self.steps = nn.Linear(code_size, horizon * step_size)
        self.recent = nn.Linear(state_size, step_size, bias=False)
        self.reader = BidirectionalEncoder(future_size, reader_size) if future_size else None
        size = step_size + (2 * reader_size if self.reader else 0)
        self.layers, size = dense_layers(size, hidden_sizes, activation, dropout)
        self.output = nn.Linear(size, output_size)
        self.activation = getattr(nn, activation)()
        if start_at_zero:
            nn.init.zeros_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    def forward(
        self,
        code: Float[Tensor, "batch code"],
        states: Float[Tensor, "batch time state"],
        future: Float[Tensor, "batch horizon features"] | None = None,
    ) -> Float[Tensor, "batch horizon output"]:
        """Return the raw parameters of each step."""
        time = states.shape[1]
        if time >= self.horizon:
            earlier = states[:, time - self.horizon :]
        else:  # a window shorter than the horizon is stretched
            earlier = states[:, torch.arange(self.horizon, device=code.device) * time // self.horizon]
        steps = self.steps(code).unflatten(1, (self.horizon, -1)) + self.recent(earlier)
        steps = self.activation(steps)
        if self.reader is not None:
            start = torch.zeros(len(code), dtype=torch.long, device=code.device)
            steps = torch.cat([steps, self.reader(future, start)[0]], dim=-1)
        return self.output(self.layers(steps))


class StepHead(nn.Module):
    """From the state of each step to what corrects a simple estimate of its value; starts as exactly 0.

    Parameters
    ----------
    state_size
        Size of a step's state.
    output_size
        Raw parameters per step.
    hidden_sizes, activation, dropout
        As in :class:`HorizonDecoder`.
    """

    def __init__(
        self,
        state_size: int,
        output_size: int,
        hidden_sizes: Sequence[int] = (),
        activation: str = "ReLU",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.layers, size = dense_layers(state_size, hidden_sizes, activation, dropout)
        self.output = nn.Linear(size, output_size)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, states: Float[Tensor, "batch time state"]) -> Float[Tensor, "batch time output"]:
        """Return the raw parameters of each step."""
        return self.output(self.layers(states))


def dense_layers(size: int, hidden_sizes: Sequence[int], activation: str, dropout: float) -> tuple[nn.Sequential, int]:
    """Return hidden layers, each followed by dropout if there is any, and the size of what they return."""
    layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
    for hidden in hidden_sizes:
        layers += [nn.Linear(size, hidden), getattr(nn, activation)()]
        layers += [nn.Dropout(dropout)] if dropout else []
        size = hidden
    return nn.Sequential(*layers), size


class LastSkip(nn.Module):
    """The last value (gaps are filled), repeated: a random walk's forecast."""

    def __init__(self, length: int, horizon: int, shift: int = 0, season_length: int | None = None):
        super().__init__()
        self.horizon = horizon

    def forward(
        self, x: Float[Tensor, "batch time components"], observed: Bool[Tensor, "batch time components"]
    ) -> Float[Tensor, "batch horizon components"]:
        return x[:, -1:].expand(-1, self.horizon, -1)


class LinearSkip(nn.Module):
    """The last value plus a linear map of the window around it, one map for all components; starts as `LastSkip`.

    References
    ----------
    A. Zeng et al., "Are Transformers Effective for Time Series Forecasting?", AAAI 2023 (NLinear),
    https://arxiv.org/abs/2205.13504
    """

    def __init__(self, length: int, horizon: int, shift: int = 0, season_length: int | None = None):
        super().__init__()
        self.map = nn.Linear(length, horizon)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(
        self, x: Float[Tensor, "batch time components"], observed: Bool[Tensor, "batch time components"]
    ) -> Float[Tensor, "batch horizon components"]:
        last = x[:, -1:]
        return last + self.map((x - last).transpose(1, 2)).transpose(1, 2)


class SeasonalSkip(nn.Module):
    """A weighted mean of the observed values one, two, ... seasons before each step of the horizon.

    The weights are learnt, the same for all steps and components; they start at ``exp(-2 k)`` for the k-th season back
    (nearly the seasonal naive forecast), and a missing value hands its weight to the others. Where no value of a
    step's phase was observed, the interpolated ones serve.

    Parameters
    ----------
    length, horizon, shift
        Steps of the window, of the horizon, and between them.
    season_length
        Steps of a season; at most `length`.
    """

    index: Tensor
    inside: Tensor

    def __init__(self, length: int, horizon: int, shift: int, season_length: int):
        super().__init__()
        seasons = math.ceil(length / season_length)
        ahead = length + shift + torch.arange(horizon)
        back = torch.div(ahead - length, season_length, rounding_mode="floor") + 1
        index = ahead[:, None] - season_length * (back[:, None] + torch.arange(seasons))
        self.register_buffer("index", index.clamp(min=0), persistent=False)
        self.register_buffer("inside", index >= 0, persistent=False)
        self.log_weight = nn.Parameter(-2.0 * torch.arange(seasons))

    def forward(
        self, x: Float[Tensor, "batch time components"], observed: Bool[Tensor, "batch time components"]
    ) -> Float[Tensor, "batch horizon components"]:
        values = x[:, self.index]
        inside = self.inside[None, :, :, None]
        seen = observed[:, self.index] & inside
        usable = seen | (inside & ~seen.any(dim=2, keepdim=True))
        weight = self.log_weight[None, None, :, None].masked_fill(~usable, float("-inf")).softmax(dim=2)
        return (weight * values).sum(dim=2)


SKIPS: dict[str, Callable[..., nn.Module]] = {"last": LastSkip, "linear": LinearSkip, "seasonal": SeasonalSkip}
