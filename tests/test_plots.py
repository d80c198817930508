"""The picture of a forecast: gaps, bands, truth."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from darts import TimeSeries
from matplotlib.patches import Rectangle

from birnn_forecast.plots import plot_forecast, quantile_of
from tests.conftest import make_series


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def split(gaps=()):
    series = make_series(120)
    values = series.values(copy=True)
    for start, end in gaps:
        values[start:end] = np.nan
    return series.with_values(values)[:100], series[100:]


def sampled(truth: TimeSeries) -> TimeSeries:
    noise = np.random.default_rng(0).normal(size=(len(truth), 1, 200))
    return TimeSeries.from_times_and_values(truth.time_index, truth.values()[:, :, None] + noise)


def quantiles(truth: TimeSeries, levels=(0.1, 0.5, 0.9)) -> TimeSeries:
    values = np.concatenate([truth.values() + level for level in levels], axis=1)
    return TimeSeries.from_times_and_values(truth.time_index, values, columns=[f"x_q{q:.3f}" for q in levels])


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def shaded(ax) -> list[tuple[float, float]]:
    return sorted((p.get_x(), p.get_x() + p.get_width()) for p in ax.patches if isinstance(p, Rectangle))


def test_every_gap_is_shaded_from_neighbour_to_neighbour():
    history, truth = split([(0, 2), (10, 11), (40, 60), (95, 100)])
    history = TimeSeries.from_values(history.values())
    truth = TimeSeries.from_values(truth.values()).shift(100)
    ax = plot_forecast(history, truth)
    assert shaded(ax) == [(0, 2), (9, 11), (39, 60), (94, 100)]
    assert labels(ax).count("missing") == 1


def test_a_series_without_gaps_has_no_shade():
    history, truth = split()
    ax = plot_forecast(history, truth)
    assert not shaded(ax)
    assert labels(ax) == ["history", "forecast"]


@pytest.mark.parametrize("make", [sampled, quantiles])
def test_a_probabilistic_forecast_has_a_band(make):
    history, truth = split([(10, 20)])
    forecast = make(truth)
    ax = plot_forecast(history, forecast, truth)
    assert labels(ax) == ["history", "missing", "forecast, 80 % band", "observed"]
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(quantile_of(forecast, 0.1).min())
    assert band[:, 1].max() == pytest.approx(quantile_of(forecast, 0.9).max())


def test_the_interval_can_be_chosen():
    history, truth = split()
    ax = plot_forecast(history, quantiles(truth, (0.25, 0.5, 0.75)), interval=(0.25, 0.75))
    assert "forecast, 50 % band" in labels(ax)


def test_several_forecasts_with_and_without_names():
    history, truth = split()
    ax = plot_forecast(history, {"BiGRU": quantiles(truth), "naive": truth}, ylabel="ppm")
    assert labels(ax) == ["history", "BiGRU, 80 % band", "naive"]
    assert ax.get_ylabel() == "ppm"
    ax = plot_forecast(history, [truth, truth])
    assert labels(ax) == ["history", "forecast 1", "forecast 2"]


def test_given_axes_are_drawn_on_and_the_picture_can_be_saved(tmp_path):
    ax = plt.figure().add_subplot()
    history, truth = split([(5, 9)])
    assert plot_forecast(history, truth, ax=ax) is ax
    ax.figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_what_cannot_be_drawn_is_refused():
    _, truth = split()
    with pytest.raises(ValueError, match="`history` must have one component, got 2"):
        plot_forecast(make_series(components=2), truth)
    with pytest.raises(ValueError, match="must hold the median, got"):
        plot_forecast(*reversed([quantiles(truth, (0.1, 0.9)), make_series()]))
