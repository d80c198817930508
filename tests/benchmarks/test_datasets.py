import hashlib
from pathlib import Path

import pytest

from benchmarks import datasets
from benchmarks.datasets import DATASETS, Dataset, File, folder, locate

DATA = Path(__file__).parents[3] / "shared/data"
CONTENT = b"date,value\n2000,1\n"


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """A made-up data set with a ``file://`` origin, a cache of its own, and the path of the origin."""
    path = tmp_path / "origin" / "tiny.csv"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    files = {"tiny.csv": File(hashlib.sha256(CONTENT).hexdigest(), path.as_uri())}
    monkeypatch.setitem(DATASETS, "tiny", Dataset("tiny", "none", "nobody", files))
    monkeypatch.setattr(datasets.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    return path


def test_fetches_into_the_cache_once(origin):
    path = locate("tiny", "tiny.csv", None)
    assert path.read_bytes() == CONTENT
    assert path.parts[-4:] == ("cache", "birnn_forecast", "tiny", "tiny.csv")
    origin.unlink()
    assert locate("tiny", "tiny.csv", None) == path


def test_a_wrong_content_at_the_origin_is_refused(origin):
    origin.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"tiny/tiny.csv could not be fetched from file://.*--data-dir DIR") as caught:
        locate("tiny", "tiny.csv", None)
    for content in (CONTENT, b"other"):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)


def test_an_origin_out_of_reach_names_the_remedy(origin):
    origin.unlink()
    with pytest.raises(OSError, match=r"never tried.*give --data-dir DIR with the file at DIR/tiny/tiny.csv"):
        locate("tiny", "tiny.csv", None)


def test_a_file_without_origin_names_the_remedy(monkeypatch):
    monkeypatch.setitem(DATASETS, "tiny", Dataset("tiny", "none", "nobody", {"a.csv": File("0")}))
    with pytest.raises(ValueError, match=r"tiny/a.csv has no public origin.*--data-dir DIR"):
        locate("tiny", "a.csv", None)


def test_data_dir_is_checked(origin, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no .*tiny.csv .SHA-256 .*Put the file there, from file://"):
        locate("tiny", "tiny.csv", tmp_path)
    path = tmp_path / "tiny" / "tiny.csv"
    path.parent.mkdir()
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match="Replace it by the original file from file://") as caught:
        locate("tiny", "tiny.csv", tmp_path)
    for content in (CONTENT, b"other"):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)
    path.write_bytes(CONTENT)
    assert locate("tiny", "tiny.csv", tmp_path) == path
    assert folder({"tiny": ["tiny.csv"]}, tmp_path) == tmp_path


def test_every_set_has_licence_and_citation():
    for name, dataset in DATASETS.items():
        assert name == dataset.name
        assert dataset.licence
        assert dataset.citation
        for file in dataset.files.values():
            assert len(file.sha256) == 64
            assert not file.url or file.url.startswith("https://")


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="needs the data sets in ../shared/data")
def test_hashes_are_those_of_the_files():
    for name, dataset in DATASETS.items():
        if dataset.files:
            there = {path.name for path in (DATA / name).iterdir()} - {"SOURCE.md"}
            assert there == set(dataset.files)
        for file in dataset.files:
            assert locate(name, file, DATA) == DATA / name / file
