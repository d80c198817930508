"""Recordings, on a device that records by doing the same again."""

import copy
import gc
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from birnn_forecast import BRITSModel, GRINModel
from birnn_forecast.nn import recurrence, replay
from birnn_forecast.nn.cells import FeedbackGRIN
from birnn_forecast.nn.rits import RITS
from tests.conftest import make_model, make_series


class Recorder:
    """Stands for a device; counts what it records and replays."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, run):
        self.recorded += 1
        outputs = [o.clone() for o in run()]

        def again():
            self.replayed += 1
            with replay.plainly():  # a device does not come by here again
                found = run()
            for own, new in zip(outputs, found, strict=True):
                own.copy_(new)

        return outputs, again


@pytest.fixture
def recorder(monkeypatch):
    found = Recorder()
    monkeypatch.setitem(replay.RECORD, "cpu", found)
    monkeypatch.setattr(replay.Recordings, "made", type(replay.Recordings.made)())
    monkeypatch.setattr(replay.Recordings, "failed", False)
    with recurrence.use("graph"):
        yield found


def rits(seed=0):
    torch.manual_seed(seed)
    network = RITS(3, 0, 4).double()
    return network, lambda x, observed: network(x, observed, None, torch.zeros(len(x), dtype=torch.long))


def grin(seed=0, **options):
    torch.manual_seed(seed)
    network = FeedbackGRIN(3, hidden_size=4, ff_size=4, **options).double()
    return network, lambda x, observed: network(x, observed, None, torch.ones(3, 3).fill_diagonal_(0.0).double())


def window(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    observed = torch.rand(batch, 5, 3, generator=generator) < 0.6
    return torch.randn(batch, 5, 3, generator=generator, dtype=torch.float64), observed


def results(network, run, x, observed):
    x = x.clone().requires_grad_()
    outputs = run(x, observed)
    loss = sum((o * o.detach().exp()).sum() for o in outputs)
    return [*outputs, *torch.autograd.grad(loss, [x, *network.parameters()])]


def assert_as_without(network, run):
    for call in range(6):
        found = results(network, run, *window(seed=call))
        with recurrence.use("auto"):
            torch.testing.assert_close(found, results(network, run, *window(seed=call)), rtol=0, atol=1e-12)


both = pytest.mark.parametrize("make", [rits, grin])


@both
def test_replays_equal_the_function(make, recorder):
    network, run = make()
    for call in range(6):
        inputs = window(seed=call)
        found = results(network, run, *inputs)
        with recurrence.use("auto"):
            expected = results(network, run, *inputs)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        with torch.no_grad():
            for p in network.parameters():  # as an optimizer does
                p.mul_(0.9)
    assert recorder.recorded == 2  # the passes of one shape
    assert recorder.replayed == 2 + 2 * 3  # the comparison, and three calls


@both
def test_outputs_outlive_the_next_replay(make, recorder):
    network, run = make()
    for call in range(4):
        results(network, run, *window(seed=call))
    first, second = (window(seed=seed) for seed in (7, 8))
    one = run(*first)
    kept = [o.detach().clone() for o in one]
    run(*second)
    assert recorder.replayed > 2
    for a, b in zip(one, kept, strict=True):
        assert torch.equal(a, b)
    parameters = list(network.parameters())
    late = torch.autograd.grad(sum(o.sum() for o in one), parameters, allow_unused=True)
    with recurrence.use("auto"):
        expected = torch.autograd.grad(sum(o.sum() for o in run(*first)), parameters, allow_unused=True)
    for a, b in zip(late, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@both
def test_gradients_of_gradients(make, recorder):
    network, run = make()
    for call in range(4):
        results(network, run, *window(seed=call))

    def twice():
        x, observed = window()
        x.requires_grad_()
        (slope,) = torch.autograd.grad(run(x, observed)[0].square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), x)[0]

    found = twice()
    with recurrence.use("auto"):
        torch.testing.assert_close(found, twice(), rtol=0, atol=1e-12)


@both
def test_each_shape_has_a_recording_up_to_some(make, recorder):
    network, run = make()
    for batch in range(1, replay.SHAPES + 3):
        for call in range(replay.CALLS + 1):
            results(network, run, *window(batch, call))
    assert recorder.recorded == 2 * replay.SHAPES


@both
def test_a_recording_that_does_something_else_is_not_used(make, recorder, monkeypatch):
    def wrong(run):
        outputs, again = recorder(run)

        def worse():
            again()
            outputs[0].mul_(1.01)

        return outputs, worse

    monkeypatch.setitem(replay.RECORD, "cpu", wrong)
    assert_as_without(*make())
    assert recorder.replayed == 2  # for the comparison


@both
@pytest.mark.parametrize("way", ["nothing", "outputs only"])
def test_a_replay_that_does_nothing_is_not_used(make, way, recorder, monkeypatch):
    def idle(run):
        outputs, again = recorder(run)
        return outputs, (again if way == "outputs only" and recorder.recorded == 1 else lambda: None)

    monkeypatch.setitem(replay.RECORD, "cpu", idle)
    assert_as_without(*make())
    assert replay.Recordings.count() == 0


@both
def test_checkpoints_are_not_recorded(make, recorder):
    _, run = make()
    for call in range(6):
        x, observed = window(seed=call)
        x.requires_grad_()
        out = checkpoint(lambda x, observed=observed: run(x, observed)[0], x, use_reentrant=False)
        out.sum().backward()
    assert recorder.recorded == 0


def test_hooks_of_the_network_are_called_once_a_call(recorder):
    network, run = grin()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    for call in range(6):
        results(network, run, *window(seed=call))
    assert recorder.recorded == 2
    assert len(calls) == 6


def test_what_an_output_does_not_reach_has_no_gradient(recorder):
    network, run = grin()
    for call in range(6):
        network.zero_grad()
        run(*window(seed=call)).estimates.sum().backward()
        assert network.output[0].weight.grad is None
        assert network.first.weight.grad is not None
    assert recorder.replayed > 2


@both
def test_a_device_that_cannot_record_is_let_off(make, recorder, monkeypatch):
    def broken(run):
        recorder.recorded += 1
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setitem(replay.RECORD, "cpu", broken)
    network, run = make()
    for call in range(6):
        results(network, run, *window(seed=call))
    assert recorder.recorded == 1
    results(*make(), *window())
    assert recorder.recorded == 1


def test_nothing_is_recorded_unless_asked_for_nor_without_gradients_nor_with_dropout(recorder):
    network, run = grin()
    with recurrence.use("auto"):
        for _ in range(6):
            results(network, run, *window())
    with torch.no_grad():
        for _ in range(6):
            run(*window())
    dropping = grin(dropout=0.5)
    for _ in range(6):
        results(*dropping, *window())
    assert recorder.recorded == 0
    dropping[0].eval()
    for _ in range(6):
        results(*dropping, *window())
    assert recorder.recorded == 2


@both
def test_recordings_go_with_their_owner_and_stay_out_of_copies(make, recorder, monkeypatch):
    def once(run):  # as a device, keeps nothing of `run`
        outputs, _ = recorder(run)
        return outputs, lambda: None

    monkeypatch.setitem(replay.RECORD, "cpu", once)
    monkeypatch.setattr(replay, "agree", lambda a, b: True)
    network, run = make()
    for call in range(5):
        results(network, run, *window(seed=call))
    assert replay.Recordings.count() == 1
    other = pickle.loads(pickle.dumps(copy.deepcopy(network)))
    assert replay.Recordings.count() == 1
    del network, run
    gc.collect()
    assert not replay.Recordings.made
    del other


@pytest.mark.parametrize(("cls", "options"), [(BRITSModel, {}), (GRINModel, {"recurrence": "feedback"})])
def test_models_train_as_without(cls, options, recorder):
    series = make_series(90, 2, missing=0.2)

    def weights():
        return list(make_model(cls, n_epochs=3, **options).fit(series).model.parameters())

    found = weights()
    assert recorder.replayed > 10
    with recurrence.use("auto"):
        expected = weights()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
