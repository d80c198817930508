"""The asymmetric bidirectional RNN."""

from collections.abc import Sequence
from typing import Any, Unpack

from birnn_forecast.models._base import GapAwareModel
from birnn_forecast.models._params import TorchModelParams


class URNNModel(GapAwareModel):
    """Asymmetric bidirectional RNN ("U-RNN"): a backward pass first, then a forward pass that knows what comes.

    The forward pass reads at each step the input beside the backward state that has read all later steps; its last
    state encodes the input chunk.
    Series may have gaps: NaN in target or covariates is an ordinary input.

    Parameters
    ----------
    pooling
        How the forward states become a code of the input chunk: "last" (as in the paper), "mean" or "attention"
        (additive, Bahdanau et al. 2015). Default: "last".

    References
    ----------
    .. [1] T. Kim et al. "Reversible Instance Normalization for Accurate Time-Series Forecasting against
            Distribution Shift", ICLR 2022, https://openreview.net/forum?id=cGDAkQo1C0p
    .. [2] R. Rozenberg, J. Gesnouin, F. Moutarde, "Asymmetrical Bi-RNN for pedestrian trajectory encoding", 2021,
            https://arxiv.org/abs/2106.04419
    """

    encoder = "urnn"

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
        return self._recurrent_params() | {"cell": self.model_params["model"]}
