"""What every model of the family shares on Darts' side."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ClassVar

from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel
from darts.utils.data.torch_datasets.utils import TorchTrainingSample, _parse_input_chunk_length
from darts.utils.serialization import add_safe_globals, safe_globals
from darts.utils.ts_utils import series2seq
from torch.nn.modules import activation

from birnn_forecast.models._batches import BatchesMixin
from birnn_forecast.models._checks import (
    check_choice,
    check_integer,
    check_labels,
    check_number,
    check_series,
    check_share,
    check_weights,
)
from birnn_forecast.models._docs import full_docstring, full_signature
from birnn_forecast.models._imputing import ImputingMixin
from birnn_forecast.models._module import GapAwareModule
from birnn_forecast.models._seasons import given_seasons
from birnn_forecast.nn.decoders import SKIPS
from birnn_forecast.nn.merge import MERGES
from birnn_forecast.nn.normalization import NORMALIZATIONS
from birnn_forecast.nn.pooling import POOLINGS
from birnn_forecast.nn.recurrent import CELLS
from birnn_forecast.training import CALLBACKS

CHOICES: dict[str, list[str | None]] = {
    "model": [*CELLS],
    "merge": [*MERGES],
    "pooling": [*POOLINGS],
    "normalization": [*NORMALIZATIONS, None],
    "skip": [*SKIPS, None],
}
# those that act on each value and need no parameter
ACTIVATIONS = {*activation.__all__} - {
    "GLU",
    "LogSoftmax",
    "MultiheadAttention",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Threshold",
}
COUNTS = ("hidden_dim", "n_rnn_layers", "decoder_dim", "n_filters", "kernel_size", "n_conv_layers")


def _allow_family(method: Callable) -> Callable:
    """Let Darts' safe loading take the family's classes, also after a user's ``clear_safe_globals()``."""

    @wraps(method)
    def load(*args, **kwargs):
        with safe_globals(_family()):
            return method(*args, **kwargs)

    return load


class GapAwareModel(ImputingMixin, BatchesMixin, MixedCovariatesTorchModel):
    """Base of the family: a Darts torch model that takes series with gaps as they are.

    A subclass lists its parameters in ``__init__``, which does nothing but ``super().__init__()``: Darts' metaclass has
    recorded them in ``self.model_params``. It names an encoder and, in :meth:`_encoder_params`, that encoder's
    parameters. Its documentation and signature are completed, and it is allow-listed for Darts' safe loading, when the
    class is made.

    Parameters
    ----------
    input_chunk_length
        Number of time steps in the past to take as a model input (per chunk), or a tuple ``(min, max)`` of them: then
        series shorter than `max` are taken as well, their missing beginning treated as a gap. Applies to the target
        series, and past and future covariates.
    model
        The recurrent cell: "RNN", "GRU" or "LSTM".
    hidden_dim
        Number of units of each recurrent layer, per direction. Default: 32.
    n_rnn_layers
        Number of recurrent layers. Default: 1.
    hidden_fc_sizes
        Sizes of the decoder's hidden layers, if any, between a horizon step's code and its output.
        Default: ``None``.
    dropout
        Share of units dropped between the layers of encoder and decoder; ``predict(mc_dropout=True)`` keeps it on.
        Default: 0.
    activation
        Name of the ``torch.nn`` activation in the decoder. Default: "ReLU".
    bidirectional
        Whether to read the input chunk from its end as well. Default: ``True``.
    merge
        How the states of the two directions become one: "concat", "sum", "mean", "mul", or "gate", a learnt gate that
        decides, per unit and step, how much each direction takes from the other. Default: "concat".
    pooling
        How the states become a code of the input chunk: "last" (last forward merged with first backward state),
        "mean", or "attention" (additive, Bahdanau et al. 2015). Default: "last".
    normalization
        Normalisation between recurrent layers: "batch", "layer" or ``None``. Default: ``None``.
    skip
        A simple forecast beside the network, which starts at zero and learns to correct it: "last" (the last value,
        gaps filled), "linear" (a linear map of the input chunk, its gaps interpolated), "seasonal" (a learnt weighted
        mean of the observed values of the same phase in past seasons), or ``None``. Default: "linear".
    season_length
        Number of time steps of a season: gaps in the input chunk, and those longer than it, are filled along it instead
        of by straight lines. With "auto" it is found in the training series at the first ``fit`` (and then kept, and
        saved with the model: ``model.seasons``): with a ``DatetimeIndex`` the usual season of its frequency (a day of
        hours or minutes, a week of days, a year of weeks, months or quarters), with a ``RangeIndex`` the strongest
        period, if the series show it, whatever their trends and gaps; else there is none. A number of steps is taken
        as given, a list of them as several seasons; ``None`` means no season. The network knows one: the shortest, if
        it is no longer than the input chunk. A longer one is no error: ``impute`` alone uses it, in its interpolations
        of the whole series. ``skip="seasonal"`` needs one that fits. Default: "auto".
    masking_rate
        Largest share of an input chunk that each of several patterns hides from the network in training: single
        values, blocks, blocks of all components; the gaps of other input chunks come on top, and a third of the input
        chunks stays whole. The network learns
        to do without, and to estimate what was hidden. Larger is more robust and slower to learn; 0 hides nothing.
        Default: 0.2.
    imputation_weight
        Weight of the loss over hidden values of the input chunk, from which the network learns to impute, beside that
        over the horizon. ``train_loss`` and ``val_loss`` are their sum; ``..._forecast_loss`` and
        ``..._imputation_loss`` are logged apart. With 0 nothing is hidden, and the model cannot ``impute``.
        Default: 1.0.
    decoder_dim
        Size of the code of each horizon step in the decoder. Default: 16.
    patch_length
        Number of time steps that the recurrent layers read at once, such as the season: the input chunk is cut into
        patches from its end, each embedded by a dense layer. The recurrence is then so much shorter: it trains
        faster and remembers more, at the price of detail within a patch. At most `input_chunk_length`. Default:
        ``None``, step by step.
    tbptt_length
        Truncated back-propagation through time, for input chunks so long that training runs out of memory: the number
        of time steps over which a gradient flows through a state, back in the forward and ahead in the backward
        direction. Longer input chunks are cut into segments of this length, counted back from their end. All states
        are as without it, but those that a segment starts from are constants; no other gradient is cut: losses,
        pooling and decoder reach every state that they read. A segment is computed again when its gradient is, so
        memory grows with the input chunk by its features and estimates only (and, in training with several layers,
        by the states of one layer for a moment), and a step takes longer. Of no effect on predictions; cannot go
        with ``normalization="batch"`` or `patch_length`. Default: ``None``, the whole input chunk.
    use_static_covariates
        Whether to use the static covariates of the target series, where they have any. Default: ``True``.
    use_reversible_instance_norm
        Whether to normalise each input chunk by the mean and standard deviation of its observed values, and the
        forecast back [1]_. If a dictionary, its parameters: ``{"affine": bool, "eps": float}``. Parameters of a
        likelihood are brought back each by its meaning (a scale is scaled, not shifted). Default: ``True``, unlike in
        Darts, so that unscaled series are forecast sensibly (a MASE of 0.71 instead of 0.94, mean of five series:
        ``python -m benchmarks.defaults``).
    """

    network: ClassVar[str] = "joint"
    """Name of the network in ``birnn_forecast.models._module.NETWORKS``."""
    encoder: ClassVar[str]
    """Name of the encoder in ``birnn_forecast.nn.networks.ENCODERS``, unless the network brings its own."""
    norm_options: ClassVar[tuple[str, ...]] = ("affine", "eps")
    """What ``use_reversible_instance_norm`` takes as a dictionary."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.__signature__ = full_signature(cls.__init__)
        if cls.__doc__:
            cls.__doc__ = full_docstring(cls.__doc__, cls.__signature__, GapAwareModel.__doc__)
        add_safe_globals([cls])

    def __init__(self):
        params = self.model_params
        self._check_params(params)
        self._min_input_chunk_length, longest = _parse_input_chunk_length(params["input_chunk_length"])
        params = {**params, "input_chunk_length": longest}
        super().__init__(**self._extract_torch_model_params(**params))
        self.pl_module_params = self._extract_pl_module_params(**params)
        self._considers_static_covariates = params["use_static_covariates"]
        if given_seasons(params["season_length"]) is not None:  # else when it is found
            self._check_skip()

    def _check_params(self, params: dict[str, Any]) -> None:
        for name, choices in CHOICES.items():
            if name in params:
                check_choice(name, params[name], choices)
        for name in ("output_chunk_length", *COUNTS):
            if name in params:
                check_integer(name, params[name])
        check_integer("output_chunk_shift", params["output_chunk_shift"], minimum=0)
        if params.get("tbptt_length") is not None:
            check_integer("tbptt_length", params["tbptt_length"])
            if params.get("patch_length") is not None:
                raise ValueError(
                    "`tbptt_length` must be None with `patch_length`, which shortens the recurrence already, got "
                    f"{params['tbptt_length']}: use one of the two."
                )
            if params.get("normalization") == "batch":
                raise ValueError(
                    "`tbptt_length` must be None with `normalization='batch'`, whose statistics need all steps at "
                    f"once, got {params['tbptt_length']}: use `normalization='layer'`."
                )
        sizes = params["hidden_fc_sizes"]
        if not isinstance(sizes, list | tuple | None):
            raise ValueError(f"`hidden_fc_sizes` must be a list of sizes or None, got {sizes!r}.")
        for size in sizes or ():
            check_integer("hidden_fc_sizes", size)
        check_share("dropout", params["dropout"])
        check_share("masking_rate", params["masking_rate"])
        check_number("imputation_weight", params["imputation_weight"])
        if not isinstance(params.get("bidirectional", True), bool):
            raise ValueError(f"`bidirectional` must be True or False, got {params['bidirectional']!r}.")
        if not isinstance(params["activation"], str) or params["activation"] not in ACTIVATIONS:
            raise ValueError(
                f"`activation` must be the name of an activation in torch.nn such as 'ReLU', "
                f"got {params['activation']!r}."
            )
        norm = params["use_reversible_instance_norm"]
        if isinstance(norm, dict) and not norm.keys() <= {*self.norm_options}:
            options = " and ".join(map(repr, self.norm_options))
            raise ValueError(f"`use_reversible_instance_norm` takes {options} as keys, got {[*norm]}.")
        given_seasons(params["season_length"])
        longest = _parse_input_chunk_length(params["input_chunk_length"])[1]
        length = params.get("patch_length")
        if length is not None:
            check_integer("patch_length", length)
            if length > longest:
                raise ValueError(
                    f"`patch_length` must be at most `input_chunk_length` ({longest}), got {length}: lengthen the "
                    "input chunk or leave it out."
                )

    def _encoder_params(self) -> dict[str, Any]:
        """Return the encoder's parameters, all but its input size."""
        raise NotImplementedError

    def _recurrent_params(self) -> dict[str, Any]:
        params = self.model_params
        return {
            "hidden_size": params["hidden_dim"],
            "num_layers": params["n_rnn_layers"],
            "normalization": params["normalization"],
            "dropout": params["dropout"],
        }

    def _network_params(self) -> dict[str, Any]:
        """Return the network's parameters, those excepted that the data and the likelihood fix."""
        params = self.model_params
        return {
            "encoder": self.encoder,
            "encoder_params": self._encoder_params(),
            "pooling": params["pooling"],
            "skip": params["skip"],
            "season_length": self._window_season,
            "patch_length": params.get("patch_length"),
            "decoder_params": self._decoder_params(),
            "tbptt_length": params.get("tbptt_length"),
        }

    def _decoder_params(self) -> dict[str, Any]:
        params = self.model_params
        return {
            "step_size": params["decoder_dim"],
            "reader_size": params["decoder_dim"],
            "hidden_sizes": tuple(params["hidden_fc_sizes"] or ()),
            "activation": params["activation"],
            "dropout": params["dropout"],
        }

    def _create_model(self, train_sample: TorchTrainingSample) -> GapAwareModule:
        params = self.model_params
        return GapAwareModule(
            masking_rate=params["masking_rate"],
            imputation_weight=params["imputation_weight"],
            network=self.network,
            network_params=self._network_params(),
            seasons=self.seasons,
            **self.pl_module_params,
        )

    @property
    def supports_static_covariates(self) -> bool:
        return True

    @property
    def min_input_chunk_length(self) -> int:
        return self._min_input_chunk_length

    # Every workflow of Darts cuts its windows through these hooks

    def _setup_for_fit_from_dataset(self, *args, val_series=None, **kwargs):
        check_series("val_series", series2seq(val_series), needs_value=True)
        return super()._setup_for_fit_from_dataset(*args, val_series=val_series, **kwargs)

    def _build_train_dataset(self, series, past_covariates, future_covariates, sample_weight, *args, **kwargs):
        check_series("series", series, needs_value=True)
        check_labels(series, self.min_input_chunk_length + self.output_chunk_shift)
        check_weights(series, sample_weight)
        check_series("past_covariates", past_covariates)
        check_series("future_covariates", future_covariates)
        return super()._build_train_dataset(series, past_covariates, future_covariates, sample_weight, *args, **kwargs)

    def _build_inference_dataset(self, n, series, past_covariates, future_covariates, *args, **kwargs):
        check_series("series", series)
        check_series("past_covariates", past_covariates)
        check_series("future_covariates", future_covariates)
        return super()._build_inference_dataset(n, series, past_covariates, future_covariates, *args, **kwargs)

    load = staticmethod(_allow_family(MixedCovariatesTorchModel.load))
    load_from_checkpoint = staticmethod(_allow_family(MixedCovariatesTorchModel.load_from_checkpoint))

    @wraps(MixedCovariatesTorchModel.load_weights_from_checkpoint)
    def load_weights_from_checkpoint(self, *args, **kwargs):
        return _allow_family(super().load_weights_from_checkpoint)(*args, **kwargs)


def _family() -> list[type]:
    """Return all the classes that a saved model of the family may hold."""
    classes: list[type] = [GapAwareModule, *CALLBACKS]
    rest: list[type] = [GapAwareModel]
    while rest:
        found: list[type] = rest.pop().__subclasses__()
        classes += found
        rest += found
    return classes


add_safe_globals([GapAwareModule])
