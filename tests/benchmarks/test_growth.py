import pytest

from benchmarks import growth


@pytest.mark.slow
def test_a_row_for_each_model_with_the_seconds_and_memory_of_every_part(capsys):
    growth.main(["--numbers", "3"])
    _, ours, darts = capsys.readouterr().out.splitlines()
    assert ours.split()[:2] == ["BiGRU", "3"]
    assert darts.split()[:2] == ["BlockRNN", "3"]
    assert ours.count(" s ") == len(growth.PARTS)
    assert darts.count(" s ") == len(growth.PARTS) - 1


def test_series_are_as_many_and_as_long_as_asked_with_gaps():
    few, more = growth.make_series(2, 0.1), growth.make_series(5, 0.1)
    assert (len(few), len(more), len(more[0])) == (2, 5, growth.LENGTH)
    assert more[0].to_dataframe().isna().to_numpy().any()
