"""The report: complete, self-contained, small; in a browser its tabs can be clicked."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from benchmarks.figures import pareto_front
from benchmarks.intervals import Ratios
from benchmarks.report import number, report, seconds
from benchmarks.rows import read_rows
from benchmarks.sections import _pick_forecasts, _pick_windows, ablations, random_walks
from tests.benchmarks.made_up import write_folder

SECTIONS = ["leaderboard", "tasks", "significance", "cost", "steps"]
SECTIONS += ["calibration", "ablations", "gallery", "limits", "manifest"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("results") / "out")
    report(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text()


def text(page: str, section: str) -> str:
    """What a reader sees of a section."""
    part = page.partition(f'id="section-{section}"')[2].partition("</section>")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part))


def test_self_contained_and_small(page):
    assert len(page) < 5e6
    loaded = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert loaded
    assert all(address.startswith("data:") for address in loaded)
    assert "@import" not in page
    assert "fetch(" not in page


def test_every_section_says_what_it_should(page):
    for section in SECTIONS:
        assert f'data-tab="{section}"' in page
    board = text(page, "leaderboard")
    assert "Forecasting: BiGRU , the best of ours, is number 1 of 7" in board
    assert "exchange rate is a random walk. No skill" in board
    assert "BiGRU, one direction" not in board
    tasks = text(page, "tasks")
    assert "not run" in tasks
    assert "1 of 2 seeds failed" in tasks
    assert "p = 0.00" in text(page, "significance")
    assert page.partition('id="section-ablations"')[2].partition("</section>")[0].count("helps") == 2
    assert "M3 monthly BiGRU" in text(page, "gallery")
    limits = text(page, "limits")
    for said in ("covariates; gaps", "loss is NaN after 40 steps", "expected to take 3.1 CPU hours"):
        assert said in limits
    assert "0123abc" in text(page, "manifest")
    assert page.count('src="data:image/') == 13


def test_best_and_second_are_marked(page):
    tasks = page.partition('id="section-tasks"')[2]
    monthly = tasks.partition("<summary>M3 monthly")[2].partition("<tbody>")[2]
    best, second = (re.search(rf'<tr[^>]*><td>([^<]+?)\s*</td>.*?<td class="{mark}">([\d.]+)<', line, re.S)
                    for mark, line in zip(("best", "second"), monthly.split("</tr>")[:2], strict=True))  # fmt: skip
    assert best[1] == "BiGRU"
    assert second[1] == "Theta"
    assert float(best[2]) < float(second[2])


@pytest.mark.slow
def test_the_same_rows_give_the_same_page(tmp_path):
    folder = write_folder(tmp_path / "out", tasks=["M3 monthly"])
    assert report(folder).read_text() == report(folder).read_text()


def test_names_are_escaped(tmp_path, monkeypatch):
    from tests.benchmarks import made_up

    monkeypatch.setattr(made_up, "FAILED", {("N-HiTS", "M3 monthly", 1): "<script>alert(1)</script>"})
    page = report(write_folder(tmp_path / "out", tasks=["M3 monthly"])).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_a_folder_of_one_failed_task_gives_a_page(tmp_path, monkeypatch):
    from tests.benchmarks import made_up

    failed = {(model[0], "AQI-36", seed): "ValueError: no" for model in made_up.MODELS for seed in (1, 2)}
    monkeypatch.setattr(made_up, "FAILED", failed)
    page = report(write_folder(tmp_path / "out", tasks=["AQI-36"])).read_text()
    assert "6 failed" in page


def test_markdown(folder):
    lines = (folder / "leaderboard.md").read_text().splitlines()
    assert lines[4].startswith("| model | family | skill score, %")
    assert any(line.startswith("| **BiGRU** | ours | 21.1 (") for line in lines)
    assert "- exchange rate (random walk): no skill." in lines
    assert any(line.startswith("- BiGRU loses on exchange rate") for line in lines)


def test_skill_on_a_random_walk_is_told_from_none(folder):
    rows = read_rows(folder)
    walk = random_walks(rows, Ratios(folder, rows))
    assert [entry["task"] for entry in walk] == ["exchange rate"]
    assert {line["verdict"] for line in walk[0]["lines"]} == {"no skill"}
    rows["random_walk"] = rows["task"] == "M3 monthly"
    lines = {line["model"]: line["verdict"] for line in random_walks(rows, Ratios(folder, rows))[0]["lines"]}
    assert lines["BiGRU"] == "skill"
    assert lines["Naive"] == "worse"


def test_ablations_compare_the_same_task_and_seed(folder):
    rows = read_rows(folder)
    (ablation,) = ablations(rows)
    scores = rows.pivot(index=["task", "seed"], columns="model", values="score")
    logs = np.log(scores["BiGRU, one direction"] / scores["BiGRU"]).dropna()
    assert ablation["pairs"] == len(logs) == 8
    assert ablation["ratio"] == pytest.approx(np.exp(logs.mean()))
    assert ablation["low"] < ablation["ratio"] < ablation["high"]


def test_the_pareto_front():
    cost, gain = np.array([1, 2, 3, 4, 1]), np.array([0.1, 0.3, 0.2, 0.4, 0.0])
    assert pareto_front(cost, gain).tolist() == [True, True, False, True, False]


def test_the_gallery_picks_best_median_and_worst():
    losses = np.array([3.0, 1.0, np.nan, 2.0, 9.0, 5.0])[:, None, None]
    assert [(rank, place[0]) for rank, place, _ in _pick_forecasts(losses)] == [
        ("best", 1),
        ("median", 0),
        ("worst", 4),
    ]
    windows = np.repeat([4.0, 1.0, 9.0], 96)[:, None]
    picked = list(_pick_windows(windows))
    assert [rank for rank, _, _ in picked] == ["best", "median", "worst"]
    assert [windows[place].mean() for _, place, _ in picked] == [1, 4, 9]
    # what is not scored is not shown, and nothing twice
    assert [rank for rank, _, _ in _pick_windows(np.where(np.arange(288)[:, None] < 48, 1.0, np.nan))] == ["best"]


def test_numbers():
    assert [number(value) for value in (0.98765, 12.345, 123.45, 12345.6, float("nan"))] == [
        "0.988", "12.35", "123.5", "12,346", "–",
    ]  # fmt: skip
    assert [seconds(value) for value in (0.01, 0.12, 12.3, float("nan"))] == ["< 0.1", "0.1", "12", "–"]


CLICKS = """
<iframe id="report" src="report.html" width="1300" height="900"></iframe><pre id="seen">waiting</pre>
<script>
document.getElementById("report").addEventListener("load", event => {
  const page = event.target.contentDocument, view = event.target.contentWindow;
  const shown = () => [...page.querySelectorAll("main > section")]
    .filter(section => view.getComputedStyle(section).display !== "none" && section.offsetHeight > 0)
    .map(section => section.id.replace("section-", "")).join("+");
  const selected = () => [...page.querySelectorAll("nav button[aria-selected=true]")].map(b => b.textContent).join("+");
  const seen = ["start=" + shown()];
  for (const button of page.querySelectorAll("nav button")) {
    button.click();
    seen.push(button.dataset.tab + "=" + shown() + "=" + view.location.hash.slice(1) + "=" + selected());
  }
  view.location.hash = "gallery";
  const broken = [...page.images].filter(image => !image.complete || !image.naturalWidth).length;
  page.querySelector("[data-tab=tasks]").click();
  const details = page.querySelectorAll("details")[1], before = details.offsetHeight;
  details.querySelector("summary").click();
  seen.push("broken images=" + broken, "details grew=" + (details.offsetHeight > before));
  document.getElementById("seen").textContent = seen.join("\\n");
});
</script>
"""


@pytest.mark.slow
def test_the_tabs_can_be_clicked(folder, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (Debian's package `chromium`)")
    shutil.copy(folder / "report.html", tmp_path)
    (tmp_path / "clicks.html").write_text(CLICKS)
    # no network: every name resolves to nothing; files may read files, so that the iframe can be clicked from outside
    options = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=10000"]
    options += ["--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [chromium, "--headless", *options, "--dump-dom", (tmp_path / "clicks.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.S)[1].splitlines()
    assert seen[0] == "start=leaderboard"
    assert [line.split("=")[:3] for line in seen[1:-2]] == [[section] * 3 for section in SECTIONS]
    assert [line.split("=")[3] for line in seen[1:4]] == ["Leaderboard", "Tasks", "Significance"]
    assert seen[-2:] == ["broken images=0", "details grew=true"]
