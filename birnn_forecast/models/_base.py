"""What every model of the family shares on Darts' side."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar

import numpy as np
from darts import TimeSeries
from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel
from darts.utils.data.torch_datasets.utils import TorchTrainingSample, _parse_input_chunk_length
from darts.utils.serialization import add_safe_globals, safe_globals
from darts.utils.ts_utils import series2seq
from torch import Tensor
from torch.nn.modules import activation

from birnn_forecast.checks import check_labels, check_series, check_weights, checked, warn_of_dead_components
from birnn_forecast.data.batches import Asked
from birnn_forecast.models._batches import BatchesMixin
from birnn_forecast.models._checks import (
    check_choice,
    check_flag,
    check_integer,
    check_norm,
    check_number,
    check_share,
)
from birnn_forecast.models._copies import CopiesMixin
from birnn_forecast.models._docs import full_docstring, full_signature
from birnn_forecast.models._imputing import ImputingMixin
from birnn_forecast.models._module import GapAwareModule
from birnn_forecast.models._names import TrainingNames, in_places, names_of
from birnn_forecast.models._seasons import given_seasons
from birnn_forecast.models._units import covariate_unit
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
    "loss_scale": ["window", None],
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


class GapAwareModel(ImputingMixin, BatchesMixin, CopiesMixin, MixedCovariatesTorchModel):
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
    loss_scale
        The unit of the loss. "window": the loss of each input chunk and component is measured in the standard deviation
        of what is observed there, at least a twentieth of that of the series' component, so that components and series
        of any unit and size count alike. Target, location and scale are divided by it, nothing is shifted; metrics stay
        in the unit of the series, and so do the losses of counts, shares and events (Poisson, negative binomial,
        Bernoulli, Beta, ...), which have no other. ``None``: the unit of the series, as in Darts. Default: "window".
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
    _training_names: dict[str, Any] | None = None
    _names_are_due = True
    _units: dict[str, Tensor] | None = None

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
        for name in ("output_chunk_length", "batch_size", *COUNTS):
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
        check_flag("bidirectional", params.get("bidirectional", True))
        if not isinstance(params["activation"], str) or params["activation"] not in ACTIVATIONS:
            raise ValueError(
                f"`activation` must be the name of an activation in torch.nn such as 'ReLU', "
                f"got {params['activation']!r}."
            )
        check_norm(params["use_reversible_instance_norm"], self.norm_options)
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
        module = GapAwareModule(
            masking_rate=params["masking_rate"],
            imputation_weight=params["imputation_weight"],
            loss_scale=params["loss_scale"],
            network=self.network,
            network_params=self._network_params(),
            seasons=self.seasons,
            names=self._training_names,
            **self.pl_module_params,
        )
        # those of a loaded model come with its weights
        for name, unit in (self._units or {}).items():
            module.unit_of(name).copy_(unit)
        self._units = None
        return module

    @property
    def supports_static_covariates(self) -> bool:
        return True

    @property
    def _reads_static(self) -> "GapAwareModel | None":
        """The model, if it reads static covariates."""
        return self if self.uses_static_covariates else None

    @property
    def min_input_chunk_length(self) -> int:
        return self._min_input_chunk_length

    def _setup_for_train(self, train_dataset, *args, **kwargs):
        series = _series_of(train_dataset, "series")
        if series:
            covariates = (_series_of(train_dataset, name) for name in ("past_covariates", "future_covariates"))
            self._take_names_of(series, *covariates)
        if self.model is None:
            given = {name: _series_of(train_dataset, name) for name in ("past_covariates", "future_covariates")}
            # no input chunk reaches into the last horizon
            horizon = self.output_chunk_length + self.output_chunk_shift
            unread = {"past_covariates": horizon, "future_covariates": 0}
            self._units = {
                name: covariate_unit(one, series, unread[name]) for name, one in given.items() if one and series
            }
        return super()._setup_for_train(train_dataset, *args, **kwargs)

    # What users hand over is checked before Darts looks at it

    fit = checked(MixedCovariatesTorchModel.fit)
    predict = checked(MixedCovariatesTorchModel.predict, remembers=True)
    historical_forecasts = checked(MixedCovariatesTorchModel.historical_forecasts)
    backtest = checked(MixedCovariatesTorchModel.backtest)
    residuals = checked(MixedCovariatesTorchModel.residuals)
    lr_find = checked(MixedCovariatesTorchModel.lr_find)
    scale_batch_size = checked(MixedCovariatesTorchModel.scale_batch_size)
    gridsearch: Any = classmethod(checked(MixedCovariatesTorchModel.gridsearch.__func__))  # type: ignore[attr-defined]

    def _verify_static_covariates(self, static_covariates):
        """Leave it to the hooks below, which look at every series and name the one they refuse."""

    # Every workflow of Darts cuts its windows through these hooks: values are checked as data transformers left them

    def _setup_for_fit_from_dataset(self, series, *args, val_series=None, **kwargs):
        reads_static = self.considers_static_covariates and series2seq(series)[0].static_covariates is not None
        model = self if reads_static else None
        check_series("val_series", series2seq(val_series), needs_value=True, model=model)
        self._names_are_due = True
        return super()._setup_for_fit_from_dataset(series, *args, val_series=val_series, **kwargs)

    def _build_train_dataset(self, series, past_covariates, future_covariates, sample_weight, *args, **kwargs):
        check_series("series", series, needs_value=True, model=self._reads_static)
        check_labels(series, self.min_input_chunk_length + self.output_chunk_shift)
        check_weights(series, sample_weight)
        check_series("past_covariates", past_covariates)
        check_series("future_covariates", future_covariates)
        self._keep_names(series, past_covariates, future_covariates)
        series, past_covariates, future_covariates, sample_weight = self._in_training_order(
            series, past_covariates, future_covariates, sample_weight
        )
        return super()._build_train_dataset(series, past_covariates, future_covariates, sample_weight, *args, **kwargs)

    def _build_inference_dataset(self, n, series, past_covariates, future_covariates, *args, **kwargs):
        check_series("series", series, model=self._reads_static)
        check_series("past_covariates", past_covariates)
        check_series("future_covariates", future_covariates)
        warn_of_dead_components(series, "forecast", self._fills_dead)
        dataset = super()._build_inference_dataset(n, series, past_covariates, future_covariates, *args, **kwargs)
        names, nothing = self._names, [None] * len(series)
        rows = zip(series, past_covariates or nothing, future_covariates or nothing, strict=False)  # Darts counts them
        orders = [names.order(*row, which=_which(i, series)) for i, row in enumerate(rows)]
        dataset.asked = Asked(None if all(order is None for order in orders) else orders, self._fills_dead)
        return dataset

    # Components are told apart by their names

    @property
    def _names(self) -> TrainingNames:
        return TrainingNames(**(self._training_names or {}))

    def _keep_names(self, series, past_covariates, future_covariates) -> None:
        """Keep the names of what is trained on; those known already keep their order, which the weights have."""
        if not self._names_are_due:  # a validation set
            return
        self._names_are_due = False
        found = TrainingNames.of(series, past_covariates, future_covariates, self._considers_static_covariates)
        known = self._names
        self._training_names = {
            name: old if self.model_created and old and new and {*old} == {*new} else new
            for name, old, new in zip(found._fields, known, found, strict=True)
        }

    def _in_training_order(self, series, past_covariates, future_covariates, sample_weight):
        """Return lists of series with their components in the order of training."""
        names, nothing = self._names, [None] * len(series)
        rows = [*zip(series, past_covariates or nothing, future_covariates or nothing, strict=False)]
        in_order = [names.sorted(*row, which=_which(i, series)) for i, row in enumerate(rows)]
        sample_weight = self._weights_in_order(series, sample_weight)
        if len(in_order) < len(series) or all(
            new[k] is old[k] for new, old in zip(in_order, rows, strict=True) for k in range(3)
        ):
            return series, past_covariates, future_covariates, sample_weight
        targets, past, future = (list(each) for each in zip(*in_order, strict=True))
        return targets, past if past_covariates else None, future if future_covariates else None, sample_weight

    def _weights_in_order(self, series, sample_weight):
        """Return weights of several components in the order of training: by their own names, if these are the same."""
        expected = self._names.series
        if sample_weight is None or isinstance(sample_weight, str) or expected is None:
            return sample_weight
        weights = []
        for one, weight in zip(series, sample_weight, strict=False):  # Darts compares the numbers
            given = names_of(weight) if {*names_of(weight)} == {*expected} else names_of(one)
            if weight.n_components == len(expected) and {*given} == {*expected} and given != expected:
                place = {name: number for number, name in enumerate(given)}
                weight = in_places(weight, np.array([place[name] for name in expected]))
            weights.append(weight)
        return weights if len(weights) == len(sample_weight) else sample_weight

    def _take_names_of(self, series, past_covariates, future_covariates) -> None:
        """Take over the names of what a dataset holds, which cannot be put in another order any more."""
        found = TrainingNames.of(
            series, past_covariates or None, future_covariates or None, self._considers_static_covariates
        )
        for name, old, new in zip(found._fields, self._names, found, strict=True):
            if self.model_created and old and new and old != new and {*old} == {*new}:
                raise ValueError(
                    f"The `{name}` of a dataset must have their components in the order of the first training "
                    f"({', '.join(old)}), got {', '.join(new)}: put them in that order."
                )
        self._training_names = found._asdict()
        self._names_are_due = False

    @property
    def _fills_dead(self) -> bool:
        """Whether a component that has no observed value at all is estimated."""
        return False

    def _check_ckpt_parameters(self, tfm_save):
        super()._check_ckpt_parameters(tfm_save)
        # those of the last training, which may have had others than the first
        self._training_names = getattr(tfm_save, "_training_names", None) or self._training_names

    load = staticmethod(_allow_family(MixedCovariatesTorchModel.load))
    load_from_checkpoint = staticmethod(_allow_family(MixedCovariatesTorchModel.load_from_checkpoint))

    @wraps(MixedCovariatesTorchModel.load_weights_from_checkpoint)
    def load_weights_from_checkpoint(self, *args, **kwargs):
        return _allow_family(super().load_weights_from_checkpoint)(*args, **kwargs)


def _series_of(dataset: Any, name: str) -> list[TimeSeries]:
    """Return the series that a dataset keeps under a name; a user's own may keep none there, or something else."""
    found = getattr(dataset, name, None)
    known = isinstance(found, list | tuple) and all(isinstance(one, TimeSeries) for one in found)
    return [*found] if known else []


def _which(number: int, series: Sequence) -> str:
    return "" if len(series) == 1 else f"[{number}]"


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
