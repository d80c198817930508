"""Pictures of forecasts and imputations: gaps, bands, truth."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from darts import TimeSeries
from matplotlib.patches import Rectangle

from birnn_forecast.plots import plot_forecast, plot_imputation, quantile_of
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


# imputations

GAPS = [(0, 3), (20, 30), (97, 100)]


def filled(make=None) -> tuple[TimeSeries, TimeSeries, TimeSeries]:
    """Return a series of 100 steps with gaps, an imputation of it, and the whole series."""
    gappy, _ = split(GAPS)
    whole, _ = split()
    gappy, whole = (TimeSeries.from_values(series.values()) for series in (gappy, whole))
    return gappy, whole if make is None else make(whole), whole


def drawn(ax, label: str) -> np.ndarray:
    """Return the steps at which a line has a value."""
    line = next(line for line in ax.lines if str(line.get_label()).startswith(label))
    return np.asarray(line.get_xdata())[~np.isnan(np.asarray(line.get_ydata(), float))]


IN_GAPS = [*range(4), *range(19, 31), *range(96, 100)]


def test_an_imputation_is_drawn_in_the_gaps_and_joined_to_the_values_beside_them():
    gappy, imputed, whole = filled()
    ax = plot_imputation(gappy, imputed, whole)
    assert labels(ax) == ["observed", "missing", "imputed", "hidden"]
    assert drawn(ax, "imputed").tolist() == IN_GAPS
    assert drawn(ax, "hidden").tolist() == [step for start, end in GAPS for step in range(start, end)]
    assert shaded(ax) == [(0, 3), (19, 30), (96, 100)]
    assert ax.get_ylabel() == "0"


@pytest.mark.parametrize("make", [sampled, quantiles])
def test_an_uncertain_imputation_has_a_band_in_the_gaps(make):
    gappy, imputed, _ = filled(make)
    ax = plot_imputation(gappy, imputed)
    assert labels(ax) == ["observed", "missing", "imputed, 80 % band"]
    bands = [path.vertices for path in ax.collections[0].get_paths()]
    assert [(band[:, 0].min(), band[:, 0].max()) for band in bands] == [(0, 3), (19, 30), (96, 99)]
    inside = slice(19, 31)
    assert bands[1][:, 1].min() == pytest.approx(quantile_of(imputed, 0.1)[inside].min())
    assert bands[1][:, 1].max() == pytest.approx(quantile_of(imputed, 0.9)[inside].max())


def test_several_imputations_by_name_with_another_interval():
    gappy, imputed, whole = filled(lambda whole: quantiles(whole, (0.05, 0.5, 0.95)))
    ax = plot_imputation(gappy, {"BiGRU": imputed, "linear": whole}, interval=(0.05, 0.95), ylabel="ppm")
    assert labels(ax) == ["observed", "missing", "BiGRU, 90 % band", "linear"]
    assert ax.get_ylabel() == "ppm"
    ax = plot_imputation(gappy, [whole, whole], ax=plt.figure().add_subplot())
    assert labels(ax) == ["observed", "missing", "imputed 1", "imputed 2"]


def test_truth_may_cover_a_part_of_the_series():
    gappy, imputed, whole = filled()
    ax = plot_imputation(gappy, imputed, whole[25:98])
    assert drawn(ax, "hidden").tolist() == [25, 26, 27, 28, 29, 97]


def test_an_imputation_that_cannot_be_drawn_is_refused():
    gappy, imputed, whole = filled()
    with pytest.raises(ValueError, match="`series` must have one component, got 2"):
        plot_imputation(make_series(components=2), imputed)
    with pytest.raises(ValueError, match="Each of `imputed` must hold the median, got"):
        plot_imputation(gappy, quantiles(whole, (0.1, 0.9)))
    with pytest.raises(ValueError, match="must have the time steps of `series`, 0 to 99, got 1 to 99"):
        plot_imputation(gappy, imputed[1:])


# what is a quantile, and what is a name

NAMES = ["sales", "sales_q4", "flow_q0.9", "gauge_q5", "flow_q0.900", "a_q0.100_q0.900"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_end_like_quantiles(name):
    gappy, _, whole = filled()
    gappy, whole = (one.with_columns_renamed(one.components[0], name) for one in (gappy, whole))
    levels = (0.1, 0.5, 0.9)
    values = np.concatenate([whole.values() + level for level in levels], axis=1)
    bands = TimeSeries.from_values(values, columns=[f"{name}_q{q:.3f}" for q in levels])
    for draw in (plot_imputation, plot_forecast):
        ax = draw(gappy, {"plain": whole, "bands": bands}, whole)
        assert {"plain", "bands, 80 % band"} < {*labels(ax)}
        plain = next(line for line in ax.lines if line.get_label() == "plain")
        inside = np.asarray(plain.get_ydata())[20:30]
        np.testing.assert_allclose(inside, whole.values()[20:30, 0])
    assert quantile_of(bands, 0.9, name) is not None
    lone = bands[f"{name}_q0.900"]
    assert quantile_of(lone, 0.5, name) is None
    with pytest.raises(ValueError, match="Each of `imputed` must hold the median, got"):
        plot_imputation(gappy, lone)


def test_several_components_that_are_no_quantiles():
    history, truth = split()
    two = TimeSeries.from_times_and_values(truth.time_index, np.zeros((20, 2)), columns=["a_q4", "b_q4"])
    with pytest.raises(
        ValueError, match=r"Each of `forecasts` must have one component or quantiles of it, got \['a_q4"
    ):
        plot_forecast(history, two)


@pytest.mark.parametrize(
    "interval", [(0.9, 0.1), (0.5, 0.5), (-0.1, 0.9), (0.1, 1.1), (np.nan, 0.9), (0.1,), None, 0.8, "10", (True, 0.9)]
)
def test_intervals_that_are_none(interval):
    gappy, imputed, _ = filled(quantiles)
    history, truth = split()
    for call in (
        lambda: plot_imputation(gappy, imputed, interval=interval),
        lambda: plot_forecast(history, sampled(truth), interval=interval),
    ):
        with pytest.raises(ValueError, match=r"`interval` must be .* quantiles .*, got"):
            call()
    assert not plt.get_fignums()  # nothing is drawn of what is refused


def test_an_interval_that_is_not_there():
    gappy, imputed, _ = filled(quantiles)
    with pytest.raises(ValueError, match=r"two of the quantiles that each of `imputed` holds, \[0.1, 0.5, 0.9\], got"):
        plot_imputation(gappy, imputed, interval=(0.05, 0.95))
    history, truth = split()
    with pytest.raises(ValueError, match=r"two of the quantiles that each of `forecasts` holds"):
        plot_forecast(history, quantiles(truth), interval=(0.1, 0.95))
