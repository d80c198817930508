"""The check that a task's view holds nothing that a model may not see: change it, and no byte of the view may move."""

from types import SimpleNamespace

import numpy as np

from benchmarks import imputation


def check_no_leak(task, data_dir, monkeypatch, points=3, seed=1):
    """Assert that the view of `task` does not depend on true values after an origin, or hidden."""
    (_check_forecast if task.kind == "forecast" else _check_imputation)(task, data_dir, monkeypatch, points, seed)


def _check_forecast(task, data_dir, _monkeypatch, points, seed):
    load = task.load
    known = load.read(data_dir)
    before = load.build(known, seed).view
    cuts = [load.cut(len(one.values)) for one in known]
    origins = [(number, origin) for number, cut in enumerate(cuts) for origin in cut.origins]
    assert [known[i].times[origin - 1] for i, origin in origins] == [one.end_time() for one in before.contexts]
    assert all(cut.train_end <= cut.origins.min() for cut in cuts)
    for share in np.linspace(0, 1, points):
        ends = [int(cut.origins[round(share * (len(cut.origins) - 1))]) for cut in cuts]
        changed = [
            one._replace(values=_changed(one.values, np.arange(len(one.values))[:, None] >= end))
            for one, end in zip(known, ends, strict=True)
        ]
        if load.hide:
            changed = [one._replace(values=_changed(one.values, _hidden(load, one, seed))) for one in changed]
        after = load.build(changed, seed).view
        _assert_same(before.train, after.train, "training part")
        kept = [n for n, (i, origin) in enumerate(origins) if origin <= ends[i]]
        assert kept
        _assert_same([before.contexts[n] for n in kept], [after.contexts[n] for n in kept], "context")
        for name in ("train_future_covariates", "future_covariates"):
            _assert_same(getattr(before, name) or [], getattr(after, name) or [], name)
    if before.future_covariates:
        for (i, origin), covariates in zip(origins, before.future_covariates, strict=True):
            assert covariates.end_time() == known[i].times[origin + task.horizon - 1]


def _hidden(load, known, seed):
    return np.isnan(load._visible(known, seed)) & ~np.isnan(known.values)


def _check_imputation(task, data_dir, monkeypatch, _points, seed):
    load = task.load
    before = load(data_dir, seed)
    if load.name == "AQI-36":
        visible, truth = imputation.aqi36(load.folder(data_dir))
        hidden = np.isnan(visible.values())
        monkeypatch.setattr(
            imputation, "aqi36", lambda folder: (visible, truth.with_values(_changed(truth.values(), hidden)))
        )
    else:
        data = imputation.DATA[load.name](load.folder(data_dir))
        hidden = np.concatenate([np.isnan(one.values()) for one in (*before.view.train, *before.view.series)])
        hidden[-len(before.truth) :] |= ~np.isnan(before.truth)
        changed = data._replace(series=data.series.with_values(_changed(data.series.values(), hidden)))
        monkeypatch.setitem(imputation.DATA, load.name, lambda folder: changed)
    after = load(data_dir, seed)
    scored = ~np.isnan(before.truth)
    assert scored.any()
    assert (before.truth[scored] != after.truth[scored]).all()
    _assert_same(before.view.train, after.view.train, "training part")
    _assert_same(before.view.series, after.view.series, "series to fill")


def _changed(values, where):
    """Return a copy with all recorded values changed that `where` picks."""
    where = np.broadcast_to(where, values.shape)
    noise = 1 + np.random.default_rng(0).random(values.shape)
    return np.where(where, 3 * values + 1000 * noise, values).astype(values.dtype)


def _assert_same(before, after, what):
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert one.time_index.equals(other.time_index), what
        assert one.values().tobytes() == other.values().tobytes(), f"a {what} changed"


def replace_view(load, change):
    """Return a copy of a task's `load` whose views went through `change(view, known)`: a planted leak."""

    def build(known, seed):
        data = load.build(known, seed)
        change(data.view, known)
        return data

    return SimpleNamespace(read=load.read, cut=load.cut, hide=load.hide, build=build)
