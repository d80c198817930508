"""Which seasons a model follows: given by the user, or found in the training series and kept with the weights."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from darts import TimeSeries
from darts.models.forecasting.torch_forecasting_model import (
    DEFAULT_DARTS_FOLDER,
    _get_checkpoint_fname,
    _get_checkpoint_folder,
)
from darts.utils.serialization.torch import load_ckpt_safely

from birnn_forecast.season import find_season, usual_season

if TYPE_CHECKING:
    from darts.models.forecasting.torch_forecasting_model import MixedCovariatesTorchModel as Base
else:
    Base = object

AUTO = "auto"


def given_seasons(season_length: Any) -> tuple[int, ...] | None:
    """Return the seasons that a user asks for, the shortest first; None if they are to be found.

    Raises
    ------
    ValueError
        If it is none of "auto", None, an integer >= 1, and a list of distinct integers >= 2.
    """
    if season_length is None:
        return ()
    if isinstance(season_length, str) and season_length == AUTO:
        return None
    if _is_integer(season_length, 1):
        return (int(season_length),)
    several = isinstance(season_length, list | tuple) and all(_is_integer(x, 2) for x in season_length)
    if several and len(season_length) == len({*season_length}) > 0:
        return tuple(sorted(map(int, season_length)))
    raise ValueError(
        "`season_length` must be 'auto', None, a list of distinct integers >= 2 or an integer >= 1, "
        f"got {season_length!r}."
    )


def _is_integer(value: Any, minimum: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= minimum


class SeasonsMixin(Base):
    """Finds the season of the training series, and takes that of a checkpoint, for ``season_length="auto"``."""

    model_params: dict[str, Any]
    _found_seasons: tuple[int, ...] | None = None
    _training_names: dict[str, Any] | None = None

    @property
    def seasons(self) -> tuple[int, ...]:
        """Steps of the seasons that the model follows, the shortest first; empty if there are none.

        With ``season_length="auto"`` it is what was found in the training series.

        Raises
        ------
        ValueError
            If the season is to be found, and the model is not fitted.
        """
        seasons = given_seasons(self.model_params["season_length"])
        seasons = self._found_seasons if seasons is None else seasons
        if seasons is None:
            raise ValueError(
                "`seasons` are found in the training series with `season_length='auto'`: call `fit()` first, or give "
                "`season_length` as a number of steps."
            )
        return seasons

    def _seasons_for(self, series: TimeSeries) -> tuple[tuple[int, ...], bool]:
        """Return the seasons to try on a series, and whether they were seen: else they are usual for its frequency."""
        if self.seasons or given_seasons(self.model_params["season_length"]) is not None:
            return self.seasons, True
        usual = usual_season(series.freq) if series.has_datetime_index else None
        return (() if usual is None else (usual,)), False

    @property
    def _season(self) -> int | None:
        """The season along which a whole series is interpolated."""
        return self.seasons[0] if self.seasons else None

    @property
    def _window_season(self) -> int | None:
        """The season that the network knows: the shortest, if the input chunk holds one of them."""
        fitting = [season for season in self.seasons if season <= self.input_chunk_length]
        return fitting[0] if fitting else None

    def _check_skip(self) -> None:
        """Raise if the skip path needs a season and the input chunk holds none."""
        if self.model_params["skip"] != "seasonal" or self._window_season is not None:
            return
        auto = given_seasons(self.model_params["season_length"]) is None
        if not self.seasons and auto:
            raise ValueError(
                "`skip='seasonal'` needs a season, and the training series show none: give `season_length` as a number "
                "of steps, or use another `skip`."
            )
        if not self.seasons:
            raise ValueError("`season_length` must be given (in time steps) with `skip='seasonal'`, got None.")
        which = "the season of the training series" if auto else "`season_length`"
        raise ValueError(
            f"{which} must be at most `input_chunk_length` ({self.input_chunk_length}) with `skip='seasonal'`, "
            f"got {self.seasons[0]}: lengthen the input chunk or use another `skip`."
        )

    def _setup_for_train(self, train_dataset, *args, **kwargs):
        if self.model is None and given_seasons(self.model_params["season_length"]) is None:
            # a user's own dataset may keep no series, or something else under that name
            series = getattr(train_dataset, "series", None)
            known = isinstance(series, list | tuple) and all(isinstance(one, TimeSeries) for one in series)
            weights = getattr(train_dataset, "sample_weight", None)
            season = find_season(series, weights) if known and series else None
            self._found_seasons = () if season is None else (season,)
            self._check_skip()
        return super()._setup_for_train(train_dataset, *args, **kwargs)

    def load_weights_from_checkpoint(
        self,
        model_name=None,
        work_dir=None,
        file_name=None,
        best=True,
        strict=True,
        load_encoders=True,
        skip_checks=False,
        trusted=False,
        **kwargs,
    ):
        """Load weights as Darts does, and the seasons and the names of components with them."""
        before = self._found_seasons, self._training_names
        try:
            folder, name = work_dir or os.path.join(os.getcwd(), DEFAULT_DARTS_FOLDER), model_name or self.model_name
            file_name = file_name or _get_checkpoint_fname(folder, name, best=best)
            automatic = file_name[:5] in ("last-", "best-")
            path = os.path.join(_get_checkpoint_folder(folder, name), file_name) if automatic else file_name
            checkpoint = load_ckpt_safely(load_fn=torch.load, path=path, trusted=trusted, **kwargs)
            self._training_names = checkpoint["hyper_parameters"].get("names")
            if given_seasons(self.model_params["season_length"]) is None:
                # the network must be made for the season that its weights were trained with
                self._found_seasons = _seasons_of(checkpoint["hyper_parameters"])
            super().load_weights_from_checkpoint(
                model_name, work_dir, file_name, best, strict, load_encoders, skip_checks, trusted, **kwargs
            )
        except BaseException:
            self._found_seasons, self._training_names = before
            raise


def _seasons_of(hyper_parameters: dict[str, Any]) -> tuple[int, ...]:
    """Return the seasons of a saved module; before there were several, its network had one or none."""
    season = hyper_parameters["network_params"]["season_length"]
    return tuple(hyper_parameters.get("seasons", () if season is None else (season,)))
