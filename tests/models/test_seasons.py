"""``season_length``: found, given, kept with the weights; a season longer than the input chunk."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries
from darts.utils.data import TorchTrainingDataset

from birnn_forecast import BiGRUModel, GRINModel
from tests.conftest import make_model, make_series
from tests.models.contract_helpers import assert_same, change, differs, fitted

both = pytest.mark.parametrize("cls", [BiGRUModel, GRINModel])


def walk(length=120, seed=0) -> TimeSeries:
    """Return a monthly random walk."""
    values = 10 * np.random.default_rng(seed).normal(size=(length, 1)).cumsum(axis=0)
    return make_series(length).with_values(values.astype(np.float32))


def on_range(series: TimeSeries, start=0, step=1) -> TimeSeries:
    """Return the values on a ``RangeIndex``."""
    return TimeSeries.from_times_and_values(
        pd.RangeIndex(start, start + step * len(series), step), series.values(copy=True)
    )


def window_season(model):
    """Return the season that the network was made for."""
    return model.model.network.season_length


def test_the_season_is_found(model_class):
    assert make_model(model_class).model_params["season_length"] == "auto"
    for series in (make_series(), make_series(missing=0.3), on_range(make_series(), 5, 2)):
        model = fitted(model_class, series)
        assert model.seasons == (12,)
        assert window_season(model) == 12
        assert model.model_params["season_length"] == "auto"
    for series in (walk(), on_range(walk())):
        model = fitted(model_class, series)
        assert model.seasons == ()
        assert window_season(model) is None


def test_auto_is_what_is_found(model_class):
    series, gappy = make_series(), change(make_series(), slice(40, 60), np.nan)
    found, given, none = (fitted(model_class, series, season_length=x) for x in ("auto", 12, None))
    assert_same(found.predict(4), given.predict(4))
    with_season, without = (model.impute(gappy, calibrate=False) for model in (found, none))
    assert_same(with_season, given.impute(gappy, calibrate=False))
    assert differs(with_season, without, by=1)
    flat = walk()
    assert_same(fitted(model_class, flat).predict(4), fitted(model_class, flat, season_length=None).predict(4))


@both
def test_seasons_before_the_fit(cls):
    with pytest.raises(ValueError, match=r"`seasons` are found .* call `fit\(\)` first"):
        _ = make_model(cls).seasons
    assert make_model(cls, season_length=None).seasons == ()
    assert make_model(cls, season_length=np.int64(7)).seasons == (7,)


@pytest.mark.parametrize("given", [[12, 4], (4, 12)])
def test_several_seasons(model_class, given):
    model = fitted(model_class, season_length=given)
    assert model.seasons == (4, 12)
    assert window_season(model) == 4
    assert window_season(fitted(model_class, season_length=[24, 12])) == 12


def test_a_season_longer_than_the_input_chunk(model_class):
    """The network has none, `impute` follows it through a long gap."""
    t = np.arange(180)
    truth = make_series(180).with_values((100 + 10 * np.sin(2 * np.pi * t / 12)).astype(np.float32)[:, None])
    gappy = change(truth, slice(80, 110), np.nan)
    for season in ("auto", 12, [12, 24]):
        model = fitted(model_class, truth, input_chunk_length=8, season_length=season)
        assert model.seasons[0] == 12
        assert window_season(model) is None
        far = slice(90, 100)  # from any observation
        errors = np.abs(model.impute(gappy, calibrate=False).values() - truth.values())[far]
        assert errors.mean() < 4
    assert window_season(fitted(model_class, truth, input_chunk_length=(4, 12), output_chunk_length=2)) == 12


def test_the_season_comes_with_the_weights(model_class, tmp_path):
    path = str(tmp_path / "model.pt")
    checkpoints = {"model_name": "one", "work_dir": str(tmp_path), "save_checkpoints": True}
    model = fitted(model_class, make_series(), fit={"val_series": walk()}, skip="seasonal", **checkpoints)
    model.save(path)
    new = model_class(**model.model_params | {"model_name": "two"})
    new.load_weights(path)
    unchecked = model_class(**model.model_params | {"model_name": "three"})
    unchecked.load_weights(path, load_encoders=False, skip_checks=True)
    last = model_class(**model.model_params | {"model_name": "four"})
    last.load_weights_from_checkpoint("one", str(tmp_path), best=False)
    others = [
        model_class.load(path),
        model_class.load_from_checkpoint("one", str(tmp_path), best=False),
        new,
        unchecked,
        last,
    ]
    for other in others:
        assert other.seasons == (12,)
        assert window_season(other) == 12
        assert_same(other.predict(4, make_series()), model.predict(4))
    assert pickle.loads(pickle.dumps(model)).seasons == copy.copy(model).seasons == (12,)


@both
def test_weights_for_another_season_replace_what_was_found(cls, tmp_path):
    path = str(tmp_path / "model.pt")
    fitted(cls, walk()).save(path)
    model = fitted(cls)
    assert model.seasons == (12,)
    with pytest.raises(ValueError, match="Could not find"):
        model.load_weights(str(tmp_path / "none.pt"))
    other = str(tmp_path / "other.pt")
    fitted(cls, walk(), pooling="mean").save(other)
    with pytest.raises(ValueError, match="found pooling=last, should be pooling=mean"):
        model.load_weights(other)
    assert model.seasons == (12,)
    model.load_weights(path)
    assert model.seasons == ()
    assert window_season(model) is None


@both
def test_weights_saved_before_there_were_several_seasons(cls, tmp_path):
    path = str(tmp_path / "model.pt")
    model = fitted(cls)
    model.save(path)
    checkpoint = torch.load(path + ".ckpt", weights_only=False)
    del checkpoint["hyper_parameters"]["seasons"]
    torch.save(checkpoint, path + ".ckpt")
    new = model.untrained_model()
    new.load_weights(path)
    assert new.seasons == (12,)


@both
def test_the_first_fit_decides(cls):
    """Neither the validation series nor a second fit changes the season; an untrained copy finds its own."""
    model = make_model(cls).fit(make_series(), val_series=walk())
    assert model.seasons == (12,)
    model.fit(walk())
    assert model.seasons == (12,)
    new = model.untrained_model().fit(walk(), val_series=make_series())
    assert new.seasons == ()
    back_test = model.historical_forecasts(make_series(40), start=30, stride=8, retrain=True, verbose=False)
    assert len(back_test)


class Own(TorchTrainingDataset):
    """Darts' windows under a name of one's own; what `series` holds is not Darts' affair."""

    def __init__(self, windows, **attributes):
        super().__init__()
        self.windows = windows
        vars(self).update(attributes)

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, index):
        return self.windows[index]


def test_a_dataset_of_ones_own():
    model = make_model(BiGRUModel)
    windows = model._build_train_dataset([make_series()], None, None, None, None)
    assert model.fit_from_dataset(windows).seasons == (12,)
    assert make_model(BiGRUModel).fit_from_dataset(Own(windows, series=[make_series()])).seasons == (12,)
    for attributes in ({}, {"series": None}, {"series": []}, {"series": np.zeros(3)}, {"series": [np.zeros(3)]}):
        assert make_model(BiGRUModel).fit_from_dataset(Own(windows, **attributes)).seasons == ()


def test_the_seasonal_skip_needs_a_season_that_fits(model_class):
    with pytest.raises(ValueError, match="`season_length` must be given"):
        make_model(model_class, skip="seasonal", season_length=None)
    for season, shortest in ((13, 13), ([24, 13], 13)):
        with pytest.raises(
            ValueError, match=rf"`season_length` must be at most `input_chunk_length` \(12\) .*, got {shortest}"
        ):
            make_model(model_class, skip="seasonal", season_length=season)
    assert make_model(model_class, skip="seasonal", season_length=[24, 6]).seasons == (6, 24)
    with pytest.raises(ValueError, match="the training series show none: give `season_length`"):
        fitted(model_class, walk(), skip="seasonal")
    with pytest.raises(ValueError, match=r"the season of the training series must be at most .* \(8\) .*, got 12"):
        fitted(model_class, input_chunk_length=8, skip="seasonal")
    # what failed is not kept
    model = make_model(model_class, skip="seasonal")
    with pytest.raises(ValueError, match="show none"):
        model.fit(walk())
    assert model.fit(make_series()).seasons == (12,)


@pytest.mark.parametrize(
    "value",
    ["Auto", "12", 0, -7, 2.5, 12.0, True, [], (), [1, 12], [12, 12], [12, "auto"], [7, None], {12}, np.ones(2)],
)
def test_bad_values(model_class, value):
    with pytest.raises(ValueError, match=r"`season_length` must be 'auto', None, a list of .* >= 1, got "):
        make_model(model_class, season_length=value)


@both
def test_many_series_of_different_lengths(cls):
    series = [make_series(n, seed=n) for n in (60, 90, 17)]
    assert fitted(cls, series).seasons == (12,)
    assert fitted(cls, [walk(n, n) for n in (60, 90, 17)]).seasons == ()
