"""Bidirectional RNN, GRU and LSTM."""

from collections.abc import Sequence
from typing import Any, Unpack

from birnn_forecast.models._base import GapAwareModel
from birnn_forecast.models._params import TorchModelParams


class BiRNNModel(GapAwareModel):
    """Bidirectional recurrent network over the input chunk, with a decoder of the whole horizon at once.

    Series may have gaps: NaN in target or covariates is an ordinary input. A drop-in for Darts' ``BlockRNNModel``,
    whose parameters it takes, with defaults of its own.

    Takes past, future and static covariates. A future covariate that is missing (NaN) in the horizon is replaced by
    the mean of its known values and marked as missing.

    Parameters
    ----------

    References
    ----------
    .. [1] T. Kim et al. "Reversible Instance Normalization for Accurate Time-Series Forecasting against
            Distribution Shift", ICLR 2022, https://openreview.net/forum?id=cGDAkQo1C0p
    .. [2] M. Schuster, K. K. Paliwal, "Bidirectional recurrent neural networks", IEEE Trans. Signal Processing 45
            (1997), https://doi.org/10.1109/78.650093

    Examples
    --------
    >>> from darts.datasets import AirPassengersDataset
    >>> from birnn_forecast import BiRNNModel
    >>> series = AirPassengersDataset().load().astype("float32")
    >>> model = BiRNNModel(24, 12, model="LSTM", n_epochs=50, random_state=1)
    >>> forecast = model.fit(series).predict(12)
    """

    encoder = "birnn"

    def __init__(
        self,
        input_chunk_length: int | tuple[int, int],
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        model: str = "GRU",
        hidden_dim: int = 32,
        n_rnn_layers: int = 1,
        hidden_fc_sizes: list[int] | None = None,
        dropout: float = 0.0,
        activation: str = "ReLU",
        bidirectional: bool = True,
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
        return self._recurrent_params() | {
            "cell": params["model"],
            "bidirectional": params["bidirectional"],
            "merge": params["merge"],
        }


class BiGRUModel(GapAwareModel):
    """Bidirectional GRU over the input chunk: :class:`BiRNNModel` with ``model="GRU"``.

    Series may have gaps: NaN in target or covariates is an ordinary input.

    Parameters
    ----------

    References
    ----------
    .. [1] T. Kim et al. "Reversible Instance Normalization for Accurate Time-Series Forecasting against
            Distribution Shift", ICLR 2022, https://openreview.net/forum?id=cGDAkQo1C0p
    .. [2] K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine
            Translation", EMNLP 2014, https://arxiv.org/abs/1406.1078

    Examples
    --------
    >>> from darts.utils.likelihood_models import QuantileRegression
    >>> from birnn_forecast import BiGRUModel
    >>> model = BiGRUModel(104, 52, likelihood=QuantileRegression([0.1, 0.5, 0.9]), n_epochs=20)
    """

    encoder = "birnn"
    _cell: str = "GRU"

    def __init__(
        self,
        input_chunk_length: int | tuple[int, int],
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        hidden_dim: int = 32,
        n_rnn_layers: int = 1,
        hidden_fc_sizes: list[int] | None = None,
        dropout: float = 0.0,
        activation: str = "ReLU",
        bidirectional: bool = True,
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
        return self._recurrent_params() | {
            "cell": self._cell,
            "bidirectional": params["bidirectional"],
            "merge": params["merge"],
        }


class BiLSTMModel(BiGRUModel):
    """Bidirectional LSTM over the input chunk: :class:`BiRNNModel` with ``model="LSTM"``.

    Series may have gaps: NaN in target or covariates is an ordinary input.

    Parameters
    ----------

    References
    ----------
    .. [1] T. Kim et al. "Reversible Instance Normalization for Accurate Time-Series Forecasting against
            Distribution Shift", ICLR 2022, https://openreview.net/forum?id=cGDAkQo1C0p
    .. [2] A. Graves, J. Schmidhuber, "Framewise phoneme classification with bidirectional LSTM and other neural
            network architectures", Neural Networks 18 (2005), https://doi.org/10.1016/j.neunet.2005.06.042
    """

    _cell = "LSTM"
