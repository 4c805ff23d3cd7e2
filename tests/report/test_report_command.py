"""The report command seen from outside: what it writes, says and refuses; and what stands in the page."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from meigm_jax import report
from meigm_jax.report import chart
from meigm_jax.runs import files
from tests.report.html import Parsed
from tests.test_plot_command import write_run

REPOSITORY = Path(__file__).resolve().parents[2]
WRONG = [  # arguments -> what the one line must say
    ("", "the following arguments are required: RUN_OR_FOLDER"),
    ("nowhere", "path does not exist: nowhere"),
    ("empty", "no runs found below empty"),
    ("started", "no run below started has any metrics yet"),
    ("runs --tilte x", "unknown option '--tilte'; did you mean --title"),
    ("runs --out page.pdf", "--out: expected a file name that ends in .html, got 'page.pdf'"),
    ("runs --out nowhere/page.html", "--out: folder 'nowhere' does not exist"),
    ("runs --out folder.html", "--out: 'folder.html' is a folder"),
    ("runs --out other.html", "--out: other.html exists and is no report; choose another name"),
    ("runs --out full.html", "--out: full.html exists and is no report; choose another name"),
]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for env, algo in itertools.product(("smax_3m", "matrix_game"), ("qmix", "me_qmix")):
        write_run(Path("runs", env, algo, "0"), env, algo)
    Path("empty").mkdir()
    Path("folder.html").mkdir()
    Path("full.html").symlink_to("/dev/full")
    Path("other.html").write_text("<!DOCTYPE html><title>Accounts</title>")
    write_run(Path("started/run"), "smax_3m", "qmix", points=0)
    return tmp_path


def parsed(*arguments: str) -> Parsed:
    """The page that the command writes."""
    assert report.main([*arguments, "--out", "page.html"]) == 0
    return Parsed(Path("page.html").read_text())


def page_data() -> dict:
    """The curves in the page."""
    pattern = r'<script type="application/json" id="data">(.*?)</script>'
    [data] = re.findall(pattern, Path("page.html").read_text())
    return json.loads(data)


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_wrong_command_is_one_line_and_exit_code_2(arguments, message, capsys, workplace):
    before = {path: path.stat().st_size for path in workplace.iterdir()}
    assert report.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert out == "" and all(line.startswith("warning: ") for line in err.splitlines()[:-1])
    assert {path: path.stat().st_size for path in workplace.iterdir()} == before


def test_the_page_is_written_again_and_its_name_is_said(capsys):
    for _ in range(2):
        assert report.main(["runs/smax_3m", "runs"]) == 0
        size = Path("report.html").stat().st_size / 1e3
        assert capsys.readouterr() == (f"wrote report.html: matrix_game, smax_3m, 4 runs, {size:.0f} kB\n", "")


def test_a_page_that_cannot_be_written_leaves_nothing(monkeypatch, capsys, workplace):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    before = sorted(workplace.iterdir())
    assert report.main(["runs"]) == 2
    assert capsys.readouterr().err == "error: --out: cannot write report.html: No space left on device\n"
    assert sorted(workplace.iterdir()) == before


def test_nothing_in_the_page_lies_elsewhere():
    gif(Path("runs/smax_3m/qmix/0/episode.gif"))
    page = parsed("runs")
    sources = [
        value for _, found in page.elements for key in ("src", "href", "srcset", "data") if (value := found.get(key))
    ]
    assert any(each.startswith("data:image/gif") for each in sources)
    assert all(each.startswith(("data:", "#")) for each in sources)
    text = Path("page.html").read_text()
    assert not re.findall(r"@import|url\((?!#)|//(?!www\.w3\.org/2000/svg)\w[\w.]+\.\w+/", text)
    [policy] = [found["content"] for _, found in page.elements if found.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy


def test_the_table_has_the_final_evaluations_with_their_intervals():
    row = parsed("runs").row("qmix", "smax_3m greedy win rate")
    page = Parsed(Path("page.html").read_text()).table("smax_3m greedy win rate")
    wins = page[[row[0] for row in page].index("smax_3m greedy win rate") :]
    row = next(row for row in wins if row[0] == "qmix")
    half = 4.302653 * 0.2 / np.sqrt(3)  # of seeds with 0.2, 0.4 and 0.6
    assert row[2] == f"0.400 [{0.4 - half:#.3g}, {0.4 + half:#.3g}]"
    assert row[3].startswith("0.400 [0.2")  # the lowest resample of three seeds is the lowest seed, thrice
    assert row[4] == f"0.800 [{0.8 - 2 * half:#.3g}, {0.8 + 2 * half:#.3g}]"
    assert row[5:7] == ["3", "4 k"]


def test_an_evaluation_after_fewer_steps_is_marked():
    write_run(Path("runs/smax_3m/vdn/0"), "smax_3m", "vdn", points=2)
    page = parsed("runs/smax_3m")
    assert page.row("vdn", "mean [95 %]")[6] == "2 k†" and page.row("qmix", "mean [95 %]")[6] == "4 k"
    assert "† after fewer env steps" in page.text


def test_a_single_seed_has_no_interval():
    write_run(Path("single"), "smax_3m", "vdn", seeds=1)
    assert parsed("single").row("vdn", "mean [95 %]")[2:6] == ["0.200", "0.200", "0.400", "1"]


def test_probability_of_improvement_is_a_matrix_over_environments():
    write_run(Path("runs/smax_8m/qmix/0"), "smax_8m", "qmix", seeds=2)
    write_run(Path("runs/smax_8m/vdn/0"), "smax_8m", "vdn", seeds=3)  # 0.2, 0.4 against 0.2, 0.4, 0.6
    rows = parsed("runs").table("better than …")
    assert rows[0] == ["better than …", "me_qmix", "qmix", "vdn"]
    found = {(row[0], name): cell for row in rows[1:] for name, cell in zip(rows[0][1:], row[1:], strict=True)}
    assert found["qmix", "me_qmix"].startswith("0.50") and found["qmix", "me_qmix"].endswith("2 env.")
    assert found["qmix", "vdn"].startswith("0.33") and found["vdn", "qmix"].startswith("0.67")  # (.5 + 1 + .5) / 6
    assert found["me_qmix", "vdn"] == "" == found["vdn", "vdn"]


def test_win_rates_are_put_together_where_they_can_be():
    page = parsed("runs")
    assert "Together" not in page.text
    write_run(Path("runs/smax_8m/qmix/0"), "smax_8m", "qmix", points=2)
    rows = parsed("runs").table("Together win rate in smax_3m, smax_8m")
    assert [row[0] for row in rows[2:]] == ["qmix"]
    assert rows[2][2].startswith("0.275 [")  # of 0.1, 0.2, 0.3 and 0.2, 0.4, 0.6 without 0.1 and 0.6


def test_only_what_differs_is_listed():
    write_run(Path("runs/smax_3m/qmix/1"), "smax_3m", "qmix", target_entropy=0.25)
    write_run(Path("other_run"), "smax_8m", "qmix", gamma=0.5)
    page = parsed("runs", "other_run")
    assert page.table("key", "me_qmix") == [
        ["key", "me_qmix", "qmix target_entropy=0.25", "qmix target_entropy=unset"],
        ["hyper.target_entropy", "–", "0.25", "–"],
    ]
    assert page.table("key", "smax_8m") == [
        ["key", "matrix_game", "smax_3m", "smax_8m"],
        ["hyper.gamma", "1", "1", "0.5"],
    ]


def test_names_are_only_text():
    evil = "<script>document.title='pwned'</script>"
    write_run(Path("evil"), evil, f"q'\"&{evil}")
    gif(Path("evil/<img src=x onerror=alert(1)>.gif"))
    page = parsed("evil", "--title", f"</title>{evil}")
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert all(not key.startswith("on") for _, found in page.elements for key in found)
    assert page.text.count(evil) >= 3
    assert page_data()["environments"][0]["lines"][0]["name"] == f"q'\"&{evil}"


def gif(path: Path) -> None:
    Image.new("RGB", (4, 4)).save(path, "GIF")


def test_the_newest_picture_of_a_run_is_in_the_page_and_what_is_none_is_left_out(capsys):
    gif(Path("runs/smax_3m/qmix/0/episode.gif"))
    Path("runs/smax_3m/me_qmix/0/broken.gif").write_text("no picture")
    page = parsed("runs")
    [picture] = [found for tag, found in page.elements if tag == "img"]
    assert picture["src"].startswith("data:image/gif;base64,R0lGOD") and "qmix" in picture["alt"]
    message = "runs/smax_3m/me_qmix/0/broken.gif is left out: it is no GIF"
    assert message in page.text and "Left out" in page.text


def test_a_damaged_run_is_left_out_with_a_warning_that_is_in_the_page(capsys):
    Path("runs/smax_3m/qmix/0/config.yaml").write_text("env: [")
    Path("runs/smax_3m/me_qmix/0/summary.json").write_text('{"env_steps"')
    page = parsed("runs")
    err = capsys.readouterr().err.splitlines()
    assert [line.startswith("warning: ") for line in err] == [True, True]
    assert "runs/smax_3m/qmix/0 cannot be read" in page.text and "me_qmix/0/summary.json cannot be read" in page.text
    assert page.row("runs/smax_3m/me_qmix/0", "state")[-1] == "not complete"


def test_a_complete_run_tells_its_cost():
    folder = Path("runs/smax_3m/qmix/0")
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"versions": {"jax": "0.12", "device": "TPU v9"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    summary = {
        "env_steps": 4_000,
        "env_steps_per_second": 12_345.6,
        "compile_seconds": 75,
        "peak_memory_bytes": 2_500_000_000,
    }
    (folder / "summary.json").write_text(json.dumps(summary | {"seeds": [{"seed": 1, "non_finite": {"env_steps": 5}}]}))
    page = parsed("runs")
    assert page.row("qmix", "mean [95 %]")[0] == "qmix"
    row = page.row("runs/smax_3m/qmix/0", "state")
    assert row[3:] == [
        "0 to 2",
        "4 k",
        "1 s",
        "1 min 15 s",
        "2.50 GB",
        "–",
        "0.12",
        "–",
        "TPU v9",
        "not finite: seed 1",
    ]
    assert "12.3 k" in [cell for row in page.table("mean [95 %]") for cell in row] and "on TPU v9" in page.text
    (folder / "summary.json").write_text(json.dumps(summary | {"seeds": [], "env_steps": 3_000}))  # being extended
    assert parsed("runs").row("runs/smax_3m/qmix/0", "state")[-1] == "not complete"


def test_an_algorithm_that_was_judged_by_another_policy_is_kept_apart():
    write_run(Path("runs/smax_3m/random/0"), "smax_3m", "random")
    metrics = Path("runs/smax_3m/random/0/metrics.jsonl")
    metrics.write_text(metrics.read_text().replace('"greedy"', '"sampled"'))
    page = parsed("runs/smax_3m")
    assert page.row("random sampled win rate", "mean [95 %]")[2].startswith("0.400 [")
    assert page.table("better than …")[0] == ["better than …", "me_qmix", "qmix"]


@pytest.mark.parametrize("value", [None, float("inf"), "a word"])
def test_a_run_without_a_finite_return_is_left_out_with_a_warning(value, capsys):
    metrics = Path("runs/smax_3m/qmix/0/metrics.jsonl")
    rows = [json.loads(line) | {"win_rate": value, "return": value} for line in metrics.read_text().splitlines()[:-1]]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = parsed("runs/smax_3m")
    message = "smax_3m: no win rate and no return, left out: runs/smax_3m/qmix/0"
    assert capsys.readouterr().err == f"warning: {message}\n" and message in page.text


def test_members_of_a_sweep_over_hyperparameters_are_lines_of_their_own():
    metrics = Path("runs/smax_3m/qmix/0/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()[:-1]]
    rows = [row | {"hyper": {"learning_rate": 0.1 * (1 + row["member"])}} for row in rows]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = parsed("runs/smax_3m")
    names = ["me_qmix", *(f"qmix learning_rate={rate}" for rate in (0.1, 0.2, 0.3))]
    assert page.table("key", "me_qmix") == [["key", *names], ["hyper.learning_rate", "–", "0.1", "0.2", "0.3"]]
    assert [line["name"] for line in page_data()["environments"][0]["lines"]] == names


def test_a_run_that_has_not_been_evaluated_yet_is_kept_apart():
    write_run(Path("runs/smax_3m/qmix/1"), "smax_3m", "qmix")
    metrics = Path("runs/smax_3m/qmix/1/metrics.jsonl")
    lines = [line for line in metrics.read_text().splitlines(keepends=True) if '"train"' in line]
    metrics.write_text("".join(lines).replace('"win_rate": ', '"win_rate": 0.5, "was": '))
    page = parsed("runs/smax_3m")
    assert page.row("qmix", "mean [95 %]")[2].startswith("0.400 [")
    assert page.row("qmix (training) win rate in training", "mean [95 %]")[2] == "0.500 [0.500, 0.500]"


def test_curves_have_gaps_where_there_is_no_value():
    parsed("runs/smax_3m")
    found = page_data()
    assert [each["id"] for each in found["measures"]][:2] == [
        "evaluation, greedy policy: win_rate",
        "evaluation, greedy policy: return",
    ]
    [env] = found["environments"]
    assert [line["name"] for line in env["lines"]] == ["me_qmix", "qmix"] and env["lines"][1]["seeds"] == [0, 1, 2]
    loss = env["curves"]["training: loss_td"][0]
    assert loss["mean"] == [None, 0.5, 0.3333, 0.25] and loss["low"] == loss["mean"]
    assert env["axes"]["training"][0] == {"steps": [1000, 2000, 3000, 4000], "seconds": [1.0] * 4}
    assert "training: epsilon" not in env["curves"]  # null everywhere


def test_a_large_sweep_is_thinned_out_evenly_to_less_than_a_megabyte(capsys):
    for k in range(10):
        write_run(Path(f"large/{k}"), "smax_8m", f"algo_{k}", points=400)
    assert report.main(["large", "--out", "page.html"]) == 0
    assert 100_000 < Path("page.html").stat().st_size < 1_000_000
    [found] = page_data()["environments"]
    steps = found["axes"]["training"][0]["steps"]
    assert steps[0] == 1000 and steps[-1] == 400_000 and 50 < len(steps) < 400
    assert np.ptp(np.diff(steps)) <= 1000
    curve = found["curves"]["evaluation, greedy policy: return"][0]["mean"]
    np.testing.assert_allclose(curve, [2 * step / 10_000 for step in steps], rtol=1e-3)


def test_every_colour_can_be_seen_on_both_backgrounds():
    style = (Path(report.__file__).parent / "page.css").read_text()
    dark = np.array([int(style.split("--paper: #")[2][k : k + 2], 16) for k in (0, 2, 4)]) / 255
    assert chart._luminance(dark) <= chart.DARK
    light, on_dark = chart.colours({"color": "#000000"})
    assert light == "#000000" and int(on_dark[1:3], 16) > 100
    assert chart.colours({"color": "#56B4E9"}) == ("#56b4e9", "#56b4e9")


def test_the_command_imports_no_jax_and_its_help_nothing_slow():
    code = "import sys; from meigm_jax.report import main\ntry: main({!r})\nexcept SystemExit: pass\n"
    code += "print({{'jax', 'matplotlib', 'scipy', 'numpy'}} & set(sys.modules))"

    def loaded(*arguments: str):
        command = [sys.executable, "-c", code.format(arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(REPOSITORY)})

    help_ = loaded("--help")
    assert help_.stdout.endswith("set()\n") and "--out" in help_.stdout and "--gif" in help_.stdout
    assert "'jax'" not in loaded("runs/smax_3m").stdout
    assert Path("report.html").exists()
