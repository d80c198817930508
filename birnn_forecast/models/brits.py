"""Bidirectional recurrent imputation for time series."""

from collections.abc import Sequence
from typing import Any, Unpack

from birnn_forecast.models._base import GapAwareModel
from birnn_forecast.models._params import TorchModelParams


class BRITSModel(GapAwareModel):
    """Bidirectional Recurrent Imputation for Time Series [2]_, with a decoder of the whole horizon at once.

    Two LSTMs, one from either end of the input chunk, are fed their own estimates where values are missing; their
    states decay with the time since each component was observed. A step's estimate is made from the steps before and
    after it and from the other components at that step. It imputes, reconstructs and forecasts; series may have gaps:
    NaN in target or covariates is an ordinary input.

    Parameters
    ----------
    pooling
        How the states become a code of the input chunk: "last" (last forward beside first backward state), "mean", or
        "attention" (additive, Bahdanau et al. 2015). Default: "last".
    imputation_weight
        Weight of the loss over the values of the input chunk, hidden or not (no estimate knows the value it is of),
        beside that over the horizon: the error of the estimates, of those that they are made from, and a tenth of what
        the two directions differ by. ``train_loss`` and ``val_loss`` are their sum; ``..._forecast_loss`` and
        ``..._imputation_loss`` are logged apart. With 0 nothing is hidden, and the model cannot ``impute``.
        Default: 1.0.

    References
    ----------
    .. [1] T. Kim et al. "Reversible Instance Normalization for Accurate Time-Series Forecasting against
            Distribution Shift", ICLR 2022, https://openreview.net/forum?id=cGDAkQo1C0p
    .. [2] W. Cao et al., "BRITS: Bidirectional Recurrent Imputation for Time Series", NeurIPS 2018,
            https://arxiv.org/abs/1805.10572

    Examples
    --------
    >>> from birnn_forecast import BRITSModel
    >>> model = BRITSModel(48, 12, hidden_dim=64, n_epochs=20)
    >>> full = model.fit(series).impute()  # doctest: +SKIP
    """

    network = "brits"
    encoder = "rits"

    def __init__(
        self,
        input_chunk_length: int | tuple[int, int],
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        hidden_dim: int = 32,
        hidden_fc_sizes: list[int] | None = None,
        dropout: float = 0.0,
        activation: str = "ReLU",
        pooling: str = "last",
        skip: str | None = "linear",
        season_length: int | Sequence[int] | str | None = "auto",
        masking_rate: float = 0.2,
        imputation_weight: float = 1.0,
        loss_scale: str | None = "window",
        decoder_dim: int = 16,
        use_static_covariates: bool = True,
        use_reversible_instance_norm: bool | dict[str, Any] = True,
        **kwargs: Unpack[TorchModelParams],
    ):
        super().__init__()

    def _encoder_params(self) -> dict[str, Any]:
        return {"hidden_size": self.model_params["hidden_dim"]}
