import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_is_short():
    assert len(BLOCKS[0].strip().splitlines()) <= 15


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_code_runs(code, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    if "forecast" in names:
        assert names["forecast"].n_components == 3
        assert not names["forecast"].to_dataframe().isna().any().any()
    if "full" in names:
        assert not names["full"].to_dataframe().isna().any().any()
        assert names["bands"].n_components == 3
        assert 0 < names["short"].to_dataframe().isna().to_numpy().sum() < 59


def test_pictures_and_examples_are_there():
    root = Path(__file__).parent.parent
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)|`(examples/\w+\.py)`", README):
        assert (root / "".join(path)).exists(), path


def test_make_targets_are_those_of_the_makefile():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_model_is_in_the_table():
    import birnn_forecast

    for name in birnn_forecast.__all__:
        if name.endswith("Model"):
            assert f"| `{name}`" in README
