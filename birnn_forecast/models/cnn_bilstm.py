"""Convolutions in front of a bidirectional LSTM."""

from collections.abc import Sequence
from typing import Any, Unpack

from birnn_forecast.models._base import GapAwareModel
from birnn_forecast.models._params import TorchModelParams


class CNNBiLSTMModel(GapAwareModel):
    """Convolutions over the input chunk, then a bidirectional LSTM over their features.

    Series may have gaps: NaN in target or covariates is an ordinary input.

    Parameters
    ----------
    n_filters
        Number of channels of each convolution.
    kernel_size
        Number of time steps each convolution sees.
    n_conv_layers
        Number of convolutions.

    References
    ----------
    .. [1] T. Kim et al. "Reversible Instance Normalization for Accurate Time-Series Forecasting against
            Distribution Shift", ICLR 2022, https://openreview.net/forum?id=cGDAkQo1C0p
    .. [2] T. N. Sainath et al., "Convolutional, Long Short-Term Memory, fully connected Deep Neural Networks",
            ICASSP 2015, https://doi.org/10.1109/ICASSP.2015.7178838
    .. [3] J. P. C. Chiu, E. Nichols, "Named Entity Recognition with Bidirectional LSTM-CNNs", TACL 4 (2016),
            https://arxiv.org/abs/1511.08308
    """

    encoder = "cnn"

    def __init__(
        self,
        input_chunk_length: int | tuple[int, int],
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        n_filters: int = 32,
        kernel_size: int = 3,
        n_conv_layers: int = 1,
        hidden_dim: int = 32,
        n_rnn_layers: int = 1,
        hidden_fc_sizes: list[int] | None = None,
        dropout: float = 0.0,
        activation: str = "ReLU",
        merge: str = "concat",
        pooling: str = "last",
        normalization: str | None = None,
        skip: str | None = "linear",
        season_length: int | Sequence[int] | str | None = "auto",
        masking_rate: float = 0.2,
        imputation_weight: float = 1.0,
        loss_scale: str | None = "window",
        decoder_dim: int = 16,
        patch_length: int | None = None,
        tbptt_length: int | None = None,
        use_static_covariates: bool = True,
        use_reversible_instance_norm: bool | dict[str, Any] = True,
        **kwargs: Unpack[TorchModelParams],
    ):
        super().__init__()

    def _encoder_params(self) -> dict[str, Any]:
        params = self.model_params
        own = {name: params[name] for name in ("n_filters", "kernel_size", "n_conv_layers", "activation", "merge")}
        return self._recurrent_params() | own | {"cell": "LSTM"}
