"""Batches cut at once are those that Darts stacks, bit by bit."""

import pickle
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries
from darts.utils.data import (
    HorizonBasedTorchTrainingDataset,
    SequentialTorchInferenceDataset,
    SequentialTorchTrainingDataset,
    ShiftedTorchTrainingDataset,
)
from darts.utils.data.torch_datasets.utils import _batch_collate_fn_predict, _batch_collate_fn_train
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from birnn_forecast.data.batches import (
    InferenceBatches,
    TrainingBatches,
    collate_inference,
    collate_training,
    in_batches,
)

FREQUENCIES = ["h", "D", "MS", "B", "W-WED", "RangeIndex"]


def make(length, components=1, freq="h", offset=0, dtype=np.float32, seed=0, static=None, samples=1) -> TimeSeries:
    """Return random values with gaps that start `offset` steps after the others'."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(length, components, samples)).astype(dtype)
    values[rng.random(values.shape) < 0.1] = np.nan
    if freq == "RangeIndex":
        times = pd.RangeIndex(3 + 2 * offset, 3 + 2 * (offset + length), 2)
    else:
        start = pd.Timestamp("2000-03-01")
        if offset < 0:
            start = pd.date_range(end=start, periods=1 - offset, freq=freq)[0]
        times = pd.date_range(start, periods=length + max(offset, 0), freq=freq)[-length:]
    return TimeSeries(times, values, static_covariates=static, metadata={"seed": seed})


def assert_same(ours, darts) -> None:
    assert isinstance(ours, type(darts))
    for field in fields(darts):
        a, b = getattr(ours, field.name), getattr(darts, field.name)
        if isinstance(b, torch.Tensor):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            # as numbers, a NaN equals a NaN
            assert a.numpy().tobytes() == b.numpy().tobytes(), field.name
        elif field.name == "series_schema" and b is not None:
            for one, other in zip(a, b, strict=True):
                assert one.keys() == other.keys()
                for name, value in other.items():
                    same = value.equals(one[name]) if isinstance(value, pd.Index | pd.DataFrame) else value == one[name]
                    assert same, name
        else:
            assert a == b, field.name


def outcome(function):
    try:
        return function()
    except Exception as error:
        return type(error), str(error)


def check(dataset, indices, collate, darts_collate, fresh, kept=False) -> bool:
    """Compare the batch of `indices` of a dataset that has returned no window yet with Darts'; return if it is one."""
    wrapped = in_batches(dataset)
    assert wrapped is not dataset
    if kept:
        wrapped.keep_on(torch.device("cpu"))
    assert len(wrapped) == len(dataset)
    ours = outcome(lambda: collate(wrapped.__getitems__(indices)))
    other = fresh()
    darts = outcome(lambda: darts_collate([other[index] for index in indices]))
    if isinstance(darts, tuple):
        assert ours == darts
        return False
    assert_same(ours, darts)
    return True


@st.composite
def inputs(draw, series_length=(1, 40)):
    freq = draw(st.sampled_from(FREQUENCIES))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    components, n_series = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    shortest = draw(st.integers(*series_length))
    lengths = [shortest + draw(st.integers(0, 12)) for _ in range(n_series)]
    static = None
    if draw(st.booleans()):
        static = pd.DataFrame({"a": [1.0, 2.0, 3.0][:components], "b": [0.5] * components}).astype(dtype)
    series = [make(n, components, freq, dtype=dtype, seed=i, static=static) for i, n in enumerate(lengths)]

    def covariates(seed, width, extra=30):
        if not draw(st.booleans()):
            return None
        # mostly long enough, now and then too short, or not there at all
        before, after = draw(st.integers(-2, 6)), draw(st.sampled_from([extra, extra, 3, 0, -2]))
        if draw(st.booleans()) and len(set(lengths)) == 1:
            return [make(max(lengths[0] + before + after, 1), width, freq, -before, dtype, seed)] * n_series
        return [make(max(n + before + after, 1), width, freq, -before, dtype, seed + i) for i, n in enumerate(lengths)]

    return {"series": series, "past_covariates": covariates(50, 2), "future_covariates": covariates(80, 1)}


@st.composite
def chunks(draw):
    longest = draw(st.integers(1, 12))
    return {
        "input_chunk_length": (draw(st.integers(1, longest)), longest) if draw(st.booleans()) else longest,
        "output_chunk_length": draw(st.integers(1, 6)),
    }


class TestTraining:
    @settings(max_examples=250, deadline=None)
    @given(st.data())
    def test_batches_are_those_of_darts(self, data):
        given_series, params = data.draw(inputs()), data.draw(chunks())
        kind = data.draw(st.sampled_from(["sequential", "shifted", "horizon"]))
        params["stride"] = data.draw(st.integers(1, 4))
        params["use_static_covariates"] = data.draw(st.booleans())
        series = given_series["series"]
        weight = data.draw(st.sampled_from([None, "linear", "exponential", "one", "each", "wrong"]))
        width = {"one": 1, "each": series[0].n_components, "wrong": series[0].n_components + 1}.get(weight)
        if width:
            weight = [
                s.with_values(np.random.default_rng(0).random((len(s), 1, 1)))
                for s in (one[one.components[0]] for one in series)
            ]
            weight = [w if width == 1 else TimeSeries(w.time_index, np.tile(w.values(), (1, width))) for w in weight]
        params["sample_weight"] = weight
        if kind == "horizon":
            params.pop("input_chunk_length")
            params["lookback"], params["lh"] = data.draw(st.integers(1, 3)), (1, data.draw(st.integers(1, 3)))
            cls = HorizonBasedTorchTrainingDataset
        else:
            params["max_samples_per_ts"] = data.draw(st.sampled_from([None, 1, 3, 7]))
            if kind == "shifted":
                params["shift"] = data.draw(st.integers(1, 14))
                cls = ShiftedTorchTrainingDataset
            else:
                params["output_chunk_shift"] = data.draw(st.integers(0, 3))
                cls = SequentialTorchTrainingDataset

        def fresh():
            return cls(**given_series, **params)

        dataset = outcome(fresh)
        if isinstance(dataset, tuple):
            return
        if isinstance(in_batches(dataset), cls):
            # weights that belong to no component: Darts says so
            assert weight is not None
            assert width not in (None, 1, series[0].n_components)
            return
        size = data.draw(st.integers(1, 12))
        indices = data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=size, max_size=size))
        # kept on a device, the CPU here
        check(dataset, indices, collate_training, _batch_collate_fn_train, fresh, kept=data.draw(st.booleans()))

    def test_what_is_kept_on_a_device_is_cut_there(self, monkeypatch):
        series = [
            make(40, 2, static=pd.DataFrame({"a": [1.0, 2.0]})),
            make(30, 2, static=pd.DataFrame({"a": [3.0, 4.0]})),
        ]
        dataset = in_batches(SequentialTorchTrainingDataset(series, series, series, (4, 12), 4, sample_weight="linear"))
        expected = dataset.__getitems__([0, 33, 40, 7])
        dataset.keep_on(torch.device("cpu"))
        for span in (*dataset.windows.pasts.values(), *dataset.windows.futures.values()):
            monkeypatch.setattr(span, "view", None)
        assert_same(dataset.__getitems__([0, 33, 40, 7]), expected)
        copy = pickle.loads(pickle.dumps(dataset))
        assert all(stack.tensor is None for stack in copy.windows.stacks)
        assert_same(copy.__getitems__([0, 33, 40, 7]), expected)

    def test_a_whole_epoch(self):
        series = [make(40 + 5 * i, 2, seed=i) for i in range(3)]
        covariates = [make(80, 1, offset=-3, seed=9)] * 3
        dataset = SequentialTorchTrainingDataset(series, covariates, covariates, 12, 4, sample_weight="linear")
        for options in ({}, {"num_workers": 2}, {"drop_last": True}):
            torch.manual_seed(0)
            ours = list(DataLoader(in_batches(dataset), 8, shuffle=True, collate_fn=collate_training, **options))
            torch.manual_seed(0)
            darts = list(DataLoader(dataset, 8, shuffle=True, collate_fn=_batch_collate_fn_train, **options))
            assert len(ours) == len(darts)
            for one, other in zip(ours, darts, strict=True):
                assert_same(one, other)

    def test_no_window_is_cut_by_darts(self, monkeypatch):
        dataset = in_batches(SequentialTorchTrainingDataset([make(40), make(30)], None, None, 12, 4))
        monkeypatch.setattr(SequentialTorchTrainingDataset, "__getitem__", None)
        assert collate_training(dataset.__getitems__([0, 7, 30])).past_target.shape == (3, 12, 1)

    def test_the_store_does_not_grow_when_written(self):
        dataset = in_batches(SequentialTorchTrainingDataset(make(5000), None, None, 96, 4))
        written = pickle.dumps(dataset)
        # the series stands in it twice, Darts' own dataset and the array; its windows would be 96 times that
        assert len(written) < 200_000
        assert_same(pickle.loads(written).__getitems__([3, 4]), dataset.__getitems__([3, 4]))

    def test_covariates_of_many_series_are_held_once(self):
        dataset = SequentialTorchTrainingDataset([make(40, seed=i) for i in range(9)], [make(40)] * 9, None, 12, 4)
        assert len(in_batches(dataset).windows.pasts["past_covariates"].stack.values) == 40

    def test_changing_a_batch_changes_no_series(self):
        series = make(40, static=pd.DataFrame({"a": [1.0]}))
        values = series.values()
        dataset = in_batches(SequentialTorchTrainingDataset(series, series, series, 12, 4))
        batch = dataset.__getitems__([0, 1])
        for field in fields(batch):
            if getattr(batch, field.name) is not None:
                getattr(batch, field.name).zero_()
        np.testing.assert_array_equal(series.values(), values)
        assert series.static_covariates_values().item() == 1


class TestInference:
    @settings(max_examples=250, deadline=None)
    @given(st.data())
    def test_batches_are_those_of_darts(self, data):
        given_series, params = data.draw(inputs()), data.draw(chunks())
        params["n"] = data.draw(st.integers(1, 15))
        params["output_chunk_shift"] = data.draw(st.sampled_from([0, 0, 2]))
        params["use_static_covariates"] = data.draw(st.booleans())
        series = given_series["series"]
        if data.draw(st.booleans()):
            params["stride"] = data.draw(st.integers(1, 3))
            ends = [sorted(data.draw(st.integers(1, len(s))) for _ in range(2)) for s in series]
            params["bounds"] = np.array(ends)

        def fresh():
            return SequentialTorchInferenceDataset(**given_series, **params)

        dataset = outcome(fresh)
        if isinstance(dataset, tuple):
            return
        size = data.draw(st.integers(1, 8))
        indices = data.draw(st.lists(st.integers(0, len(dataset) - 1), min_size=size, max_size=size))
        check(dataset, indices, collate_inference, _batch_collate_fn_predict, fresh)

    def test_schemas_are_new(self):
        series = make(40)
        dataset = in_batches(SequentialTorchInferenceDataset([series, series], input_chunk_length=12))
        first, second = dataset.__getitems__([0, 1]).series_schema
        # Darts multiplies the frequency of historical forecasts in place
        first["time_freq"] *= 2
        first["metadata"]["seed"] = 5
        assert second["time_freq"] == series.freq
        assert second["metadata"] == series.metadata == {"seed": 0}
        assert dataset.__getitems__([0]).series_schema[0]["time_freq"] == series.freq

    def test_only_tensors_are_moved(self):
        dataset = in_batches(SequentialTorchInferenceDataset([make(40)], input_chunk_length=12))
        batch = dataset.__getitems__([0])
        assert batch.to(torch.device("cpu")) is batch
        moved = batch.to(torch.device("meta"))
        assert moved.past_target.device.type == "meta"
        assert moved.series_schema is batch.series_schema


class TestLeftToDarts:
    def test_stochastic_series(self):
        series = make(40, samples=5)
        for dataset in (
            SequentialTorchTrainingDataset(series, None, None, 12, 4),
            SequentialTorchTrainingDataset(make(40), series, None, 12, 4),
        ):
            batches = in_batches(dataset)
            assert batches.windows is None
            np.random.seed(0)  # noqa: NPY002 - Darts draws a sample of each window
            found = batches.__getitems__([0, 3])
            np.random.seed(0)  # noqa: NPY002
            assert_same(found, _batch_collate_fn_train([dataset[0], dataset[3]]))
            assert found.history.shape == (2, 4, 1)

    def test_a_class_of_the_user(self):
        class Own(SequentialTorchTrainingDataset):
            pass

        dataset = Own(make(40), None, None, 12, 4)
        assert in_batches(dataset) is dataset
        assert in_batches(None) is None
        wrapped = in_batches(SequentialTorchTrainingDataset(make(40), None, None, 12, 4))
        assert in_batches(wrapped) is wrapped

    @pytest.mark.parametrize("dtypes", [(np.float32, np.float64), (np.float64, np.float32)])
    def test_series_of_different_types(self, dtypes):
        dataset = SequentialTorchInferenceDataset([make(40, dtype=dtype) for dtype in dtypes], input_chunk_length=12)
        batches = in_batches(dataset)
        assert batches.windows is None
        assert_same(batches.__getitems__([0, 1]), _batch_collate_fn_predict([dataset[0], dataset[1]]))

    def test_samples_are_stacked(self):
        dataset = SequentialTorchTrainingDataset(make(40), None, None, 12, 4)
        samples = [dataset[0], dataset[1]]
        assert_same(collate_training(samples), _batch_collate_fn_train(samples))
        dataset = SequentialTorchInferenceDataset([make(40)], input_chunk_length=12)
        assert_same(collate_inference([dataset[0]]), _batch_collate_fn_predict([dataset[0]]))

    def test_wrappers_return_samples_too(self):
        training = SequentialTorchTrainingDataset(make(40), None, None, 12, 4)
        assert isinstance(in_batches(training), TrainingBatches)
        np.testing.assert_array_equal(in_batches(training)[3].past_target, training[3].past_target)
        inference = SequentialTorchInferenceDataset([make(40)], input_chunk_length=12)
        assert isinstance(in_batches(inference), InferenceBatches)
        np.testing.assert_array_equal(in_batches(inference)[0].past_target, inference[0].past_target)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("stride", [1, 3])
def test_numbers_from_the_end_and_out_of_range(several, stride):
    """A series by itself is cut by other means than several."""
    series = [make(40, 2)] + [make(33, 2, seed=1)] * several
    dataset = SequentialTorchTrainingDataset(series, input_chunk_length=5, output_chunk_length=2, stride=stride)
    batches = in_batches(dataset)
    assert isinstance(batches, TrainingBatches)
    assert batches.windows.are_numbered is not several
    for copied in (batches, pickle.loads(pickle.dumps(batches))):
        numbers = [0, -1, len(dataset) // 2]
        assert_same(copied.__getitems__(numbers), _batch_collate_fn_train([dataset[i] for i in numbers]))
        for number in (2 * len(dataset), -3 * len(dataset)):
            with pytest.raises(IndexError):
                dataset[number]
            with pytest.raises(IndexError):
                copied.__getitems__([0, number])
