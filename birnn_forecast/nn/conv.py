"""Convolutional front end of a recurrent encoder."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from birnn_forecast.nn.recurrent import BidirectionalEncoder, dropped, valid_steps


class CNNEncoder(nn.Module):
    """Convolutions over time, then a bidirectional recurrent stack over their features ("CNN-BiLSTM").

    The convolutions keep the length (zeros outside the row's valid steps), so that every step has a state.

    Parameters
    ----------
    input_size
        Features per step.
    n_filters
        Channels of each convolution.
    kernel_size
        Steps each convolution sees.
    n_conv_layers
        Number of convolutions.
    recurrent
        Parameters of :class:`BidirectionalEncoder`.

    References
    ----------
    T. N. Sainath et al., "Convolutional, Long Short-Term Memory, fully connected Deep Neural Networks", ICASSP 2015;
    J. P. C. Chiu, E. Nichols, "Named Entity Recognition with Bidirectional LSTM-CNNs", TACL 2016,
    https://arxiv.org/abs/1511.08308.
    """

    def __init__(
        self,
        input_size: int,
        n_filters: int,
        kernel_size: int,
        n_conv_layers: int = 1,
        activation: str = "ReLU",
        dropout: float = 0.0,
        **recurrent,
    ):
        super().__init__()
        self.convolutions, self.dropouts = nn.ModuleList(), nn.ModuleList()
        size = input_size
        for _ in range(n_conv_layers):
            self.convolutions.append(nn.Conv1d(size, n_filters, kernel_size, padding="same"))
            self.dropouts.append(nn.Dropout(dropout) if dropout else nn.Identity())
            size = n_filters
        self.activation = getattr(nn, activation)()
        self.recurrent = BidirectionalEncoder(size, dropout=dropout, **recurrent)
        self.state_size, self.final_size = self.recurrent.state_size, self.recurrent.final_size

    def forward(
        self, x: Float[Tensor, "batch time features"], start: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch time state"], Float[Tensor, "batch final"]]:
        """Return the recurrent states and the final state, as :class:`BidirectionalEncoder` does."""
        return self.recurrent(self.front(x, start), start)

    def front(
        self, x: Float[Tensor, "batch time features"], start: Int[Tensor, " batch"], seed: int | None = None
    ) -> Float[Tensor, "batch time filters"]:
        """Return the features that the convolutions find."""
        valid = valid_steps(start, x.shape[1])[:, :, None]
        for number, (convolution, dropout) in enumerate(zip(self.convolutions, self.dropouts, strict=True)):
            x = convolution(torch.where(valid, x, 0.0).transpose(1, 2)).transpose(1, 2)
            x = dropped(dropout, self.activation(x), None if seed is None else seed + number)
        return x

    @property
    def reach(self) -> tuple[int, int]:
        """Number of steps before and after a step that its features depend on."""
        convolution: Any = self.convolutions[0]
        total = convolution.kernel_size[0] - 1
        return len(self.convolutions) * (total // 2), len(self.convolutions) * (total - total // 2)
