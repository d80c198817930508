from functools import partial

import pytest
import torch

from benchmarks import gpu_check
from birnn_forecast.data.batches import _Stack
from birnn_forecast.nn import recurrence, recurrent, replay, rits, segments


def test_report_on_a_cpu(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "INPUT", 8)
    monkeypatch.setattr(gpu_check, "OUTPUT", 2)
    monkeypatch.setattr(gpu_check, "HIDDEN", 4)
    monkeypatch.setattr(gpu_check, "FIT_STEPS", 2)
    out = tmp_path / "report.md"
    assert gpu_check.main(["--device", "cpu", "--batch-sizes", "3", "--repeats", "1", "--out", str(out)]) == 0
    report = capsys.readouterr().out
    assert out.read_text(encoding="utf-8") == report
    assert report.startswith("# Models on cpu")
    assert torch.__version__ in report
    for name in gpu_check.MODELS:
        segments = "not offered" if name in ("BRITSModel", "GRINModel") else "1.0000"
        loop = "0" if segments == "not offered" else "no loop"
        assert f"| {name} | finite | finite | 0 | 0 | {segments} | {loop} |" in report
    assert report.count("| not recorded | - |") == 2
    assert report.splitlines()[-1].startswith("| 3 | ")
    assert report.splitlines()[-1].endswith(" | - |")
    for name in (gpu_check.PEER, *gpu_check.MODELS):
        assert f"| 3 | {name} |" in report


def test_failed_checks_are_shown_and_counted(monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise RuntimeError("no | memory\nleft")

    broken.__signature__ = gpu_check.BiGRUModel.__signature__
    monkeypatch.setattr(gpu_check, "MODELS", {"Broken": broken})
    rows, failures = gpu_check.check_table("cpu")
    assert failures == 5
    assert rows[-1] == "| Broken |" + " FAILED: RuntimeError: no / memory |" * 5 + " no loop |"
    assert "Traceback" in capsys.readouterr().err


def test_forecasts_that_differ_between_devices_fail(monkeypatch):
    monkeypatch.setattr(gpu_check, "TOLERANCE", -1.0)
    with pytest.raises(ArithmeticError, match="forecasts or imputations differ by 0"):
        gpu_check.compare_with_cpu(gpu_check.MODELS["BiGRUModel"], "cpu")


def test_weights_that_are_not_finite_fail():
    def broken(*args, **kwargs):
        return gpu_check.BiGRUModel(*args, **(kwargs | {"optimizer_kwargs": {"lr": float("inf")}}))

    with pytest.raises(ArithmeticError, match="weights are not finite"):
        gpu_check.fit_with_gaps(broken, "cpu", "32-true")


def test_missing_device_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="`accelerator` must be a device of this machine"):
        gpu_check.main(["--device", "cuda"])


def test_segments_that_drop_other_units_the_second_time_fail(monkeypatch):
    monkeypatch.setattr(recurrent, "dropped", lambda dropout, x, seed: dropout(x))
    monkeypatch.setattr(segments, "checkpoint", partial(segments.checkpoint, preserve_rng_state=False))
    with pytest.raises(ArithmeticError, match="of the gradient"):
        gpu_check.slope_in_segments(gpu_check.BiGRUModel, "cpu")


def test_series_on_the_device_that_give_other_batches_fail(monkeypatch):
    keep_on = _Stack.keep_on

    def wrong(self, device):
        keep_on(self, device)
        if self.tensor is not None:
            self.tensor = self.tensor.clone().flip(0)

    monkeypatch.setattr(_Stack, "keep_on", wrong)
    with pytest.raises(ArithmeticError, match="weights differ"):
        gpu_check.compare_with_host(gpu_check.BiGRUModel, "cpu")


def test_loops_that_are_replayed_wrongly_fail(monkeypatch):
    steps = rits.plain_steps

    def worse(*inputs):
        return steps(inputs[0] * 1.01, *inputs[1:])

    def as_if_recorded(owner, function, inputs):
        return worse(*inputs)

    monkeypatch.setattr(replay, "is_wanted", lambda x: recurrence.use.mode == "graph")
    monkeypatch.setattr(replay, "replayed", as_if_recorded)
    with pytest.raises(ArithmeticError, match="weights differ"):
        gpu_check.compare_replayed(gpu_check.BRITSModel, "cpu")


def test_loops_that_are_not_replayed_at_all_fail(monkeypatch):
    def broken(run):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setitem(replay.RECORD, "cpu", broken)
    monkeypatch.setattr(replay.Recordings, "failed", False)
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        gpu_check.compare_replayed(gpu_check.BRITSModel, "cpu")
