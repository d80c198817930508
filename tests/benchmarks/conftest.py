import pytest

import benchmarks.models
import benchmarks.tasks
from tests.benchmarks import fakes


@pytest.fixture
def made_up(monkeypatch):
    """The tasks and models of `fakes`, beside the real ones."""
    for registry, more in (
        (benchmarks.tasks.TASKS, fakes.TASKS),
        (benchmarks.tasks.SUITES, {"fake": list(fakes.TASKS)}),
        (benchmarks.models.MODELS, fakes.MODELS),
        (benchmarks.models.SUITE_MODELS, {"fake": ["noise", "noise, other", "broken", "zeros"]}),
    ):
        for name, value in more.items():
            monkeypatch.setitem(registry, name, value)
