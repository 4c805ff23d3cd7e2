"""The plot command seen from outside: what it writes, says and refuses; and what the figures show."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.colors
import numpy as np
import pytest
import yaml

from meigm_jax import plot
from meigm_jax.looks import ORDER, looks
from meigm_jax.runs import curves
from meigm_jax.usage import choices

REPOSITORY = Path(__file__).resolve().parents[1]
WIN_RATE = curves.Measure("win_rate", "eval", "greedy")
WRONG = [  # arguments -> what the one line must say
    ("", "the following arguments are required: RUN_OR_FOLDER"),
    ("nowhere", "path does not exist: nowhere"),
    ("runs nowhere", "path does not exist: nowhere"),
    ("empty", "no runs found below empty"),
    ("runs/smax_3m/qmix/0/config.yaml", "no runs found below runs/smax_3m/qmix/0/config.yaml"),
    ("started", "no run below started has any metrics yet"),
    ("runs --metrc alpha", "unknown option '--metrc'; did you mean --metric"),
    ("runs --metric", "argument --metric: expected one argument"),
    ("runs --metric alfa", "--metric: no rows have 'alfa'; did you mean alpha? known: alpha, "),
    ("runs --metric epsilon", "--metric: no rows have 'epsilon'; known: alpha, loss_td, return, win_rate"),
    ("runs --metric alpha --kind eval", "--metric: no eval rows have 'alpha'"),
    ("runs --policy sampled", "these runs have no sampled rows"),
    ("runs --aggregate median", "argument --aggregate: invalid choice: 'median'"),
    ("runs --interval 95", "argument --interval: invalid choice: '95'"),
    ("runs --smooth 0", "--smooth: expected an integer of at least 1, got 0"),
    ("runs --smooth some", "argument --smooth: invalid int value: 'some'"),
    ("runs --smooth 99", "nothing to draw"),
    ("runs --out curves.gif", "--out: expected a file name that ends in .png, .pdf, .svg, got 'curves.gif'"),
    ("runs --out png", "--out: expected a file name that ends in .png, .pdf, .svg, got 'png'"),
    ("runs --out nowhere/curves.png", "--out: folder 'nowhere' does not exist"),
    ("runs --out folder.png", "--out: 'folder.png' is a folder"),
    ("runs/smax_3m --out full.svg", "--out: cannot write full.svg: No space left on device"),
]


def write_run(folder: Path, env: str, algo: str, seeds: int = 3, points: int = 4, **hyper: float) -> None:
    """A run whose seeds win (seed + 1) * k / 20 of their games at evaluation k; the matrix game has no win rate."""
    folder.mkdir(parents=True)
    config = {"seed": 0, "seeds": seeds, "env": {"name": env}, "algo": {"name": algo}, "hyper": {"gamma": 1.0, **hyper}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = []
    for k, seed in itertools.product(range(1, points + 1), range(seeds)):
        about = {"env_steps": k * 1000, "grad_steps": k, "seed": seed, "member": seed, "hyper": {}, "wall_time": 1.0}
        measured = {"return": (seed + 1) * k / 10} | ({} if env == "matrix_game" else {"win_rate": (seed + 1) * k / 20})
        learnt = {"alpha": 0.1 * k, "epsilon": None, "loss_td": None if k == 1 else 1 / k}
        rows.append({"kind": "train", **about, **measured, **learnt})
        rows.append({"kind": "eval", "policy": "greedy", **about, **measured, "episodes": 32})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + '{"kind": "ev')  # still being written


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for env, algo in itertools.product(("smax_3m", "matrix_game"), ("qmix", "me_qmix")):
        write_run(Path("runs", env, algo, "0"), env, algo)
    Path("empty").mkdir()
    Path("folder.png").mkdir()
    Path("full.svg").symlink_to("/dev/full")
    write_run(Path("started/run"), "smax_3m", "qmix", points=0)
    return tmp_path


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_wrong_command_is_one_line_and_exit_code_2(arguments, message, capsys, workplace):
    before = sorted(workplace.iterdir())
    assert plot.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert out == "" and all(line.startswith("warning: ") for line in err.splitlines()[:-1])
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("SVG", b"<?xml")])
def test_the_suffix_is_the_format(suffix, magic, capsys):
    assert plot.main(["runs/smax_3m", "--out", f"curves.{suffix}"]) == 0
    assert Path(f"curves.{suffix}").read_bytes().startswith(magic)
    assert capsys.readouterr() == (
        f"wrote curves.{suffix}: smax_3m, greedy win rate, me_qmix (3 seeds), qmix (3 seeds)\n",
        "",
    )


def test_several_environments_are_several_files_each_with_the_metric_that_it_has(capsys):
    assert plot.main(["runs/smax_3m", "--aggregate", "iqm", "runs", "--out", "curves.svg"]) == 0
    out, err = capsys.readouterr()
    assert err == ""  # a run below two of the folders is one run
    assert out.splitlines() == [
        "wrote curves_matrix_game.svg: matrix_game, greedy return, me_qmix (3 seeds), qmix (3 seeds)",
        "wrote curves_smax_3m.svg: smax_3m, greedy win rate, me_qmix (3 seeds), qmix (3 seeds)",
    ]
    assert {path.name for path in Path().glob("curves*")} == {"curves_matrix_game.svg", "curves_smax_3m.svg"}


def test_an_environment_without_the_metric_is_left_out_with_a_warning(capsys):
    assert plot.main(["runs", "--metric", "win_rate", "--out", "curves.svg"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("wrote curves.svg: smax_3m, greedy win rate")
    assert err.startswith("warning: matrix_game is left out: --metric: no rows have 'win_rate'")


def test_a_metric_of_training_just_works(capsys):
    assert plot.main(["runs/smax_3m", "--metric", "loss_td", "--out", "curves.svg"]) == 0
    assert "smax_3m, loss td in training, me_qmix (3 seeds)" in capsys.readouterr().out


def test_a_line_that_is_too_short_to_be_smoothed_is_named(capsys):
    write_run(Path("runs/smax_3m/vdn/0"), "smax_3m", "vdn", points=2)
    assert plot.main(["runs/smax_3m", "--smooth", "3", "--out", "curves.svg"]) == 0
    out, err = capsys.readouterr()
    assert "vdn" not in out and "qmix (3 seeds)" in out
    assert err == "warning: vdn is not drawn: it has no 3 points in a row\n"


def test_a_run_that_cannot_be_read_is_left_out_with_a_warning(capsys):
    Path("runs/smax_3m/qmix/0/config.yaml").write_text("env: [")
    assert plot.main(["runs/smax_3m", "--out", "curves.svg"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("me_qmix (3 seeds)\n") and "qmix (3 seeds), " not in out
    assert err.startswith("warning: runs/smax_3m/qmix/0 cannot be read: ")
    assert len(err.splitlines()) == 1


def test_the_command_imports_no_jax_and_its_help_nothing_slow():
    code = "import sys; from meigm_jax.plot import main\ntry: main({!r})\nexcept SystemExit: pass\n"
    code += "print({{'jax', 'matplotlib', 'scipy'}} & set(sys.modules))"

    def loaded(*arguments: str):
        command = [sys.executable, "-c", code.format(arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(REPOSITORY)})

    help_ = loaded("--help")
    assert help_.stdout.endswith("set()\n")
    for option in ("--metric", "--out", "--kind", "--policy", "--aggregate", "--interval", "--smooth"):
        assert option in help_.stdout
    assert "'jax'" not in loaded("runs/smax_3m", "--out", "curves.svg").stdout
    assert Path("curves.svg").exists()


def lines_of(*folders: str) -> list[curves.Line]:
    members = [m for folder in folders for run in curves.find_runs(Path(folder)) for m in curves.read_members(run)]
    return curves.pool(members, WIN_RATE, pytest.fail)


def test_a_figure_shows_the_mean_and_its_interval_over_env_steps():
    lines = lines_of("runs/smax_3m/qmix")
    [axes] = plot.figure(lines, "smax_3m", WIN_RATE).axes
    [drawn], [band] = axes.lines, axes.collections
    np.testing.assert_allclose(drawn.get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(drawn.get_ydata(), [0.1, 0.2, 0.3, 0.4])  # seeds at 1, 2 and 3 times k / 20
    half = 4.302653 * 0.05 * 4 / np.sqrt(3)  # at the last step
    edges = band.get_paths()[0].vertices
    np.testing.assert_allclose([edges[:, 1].min(), edges[:, 1].max()], [0.4 - half, 0.4 + half], rtol=1e-6)
    assert axes.get_xlabel() == "env steps per seed (thousands)"
    assert axes.get_ylabel() == "greedy win rate"
    assert axes.get_ylim() == (0, 1)


def test_the_legend_says_what_the_lines_and_bands_are():
    write_run(Path("single"), "smax_3m", "vdn", seeds=1)
    lines = lines_of("runs/smax_3m/qmix", "single")

    def words(*arguments) -> tuple[str, list[str]]:
        [legend] = plot.figure(*arguments).legends
        return " ".join(legend.get_title().get_text().split()), [text.get_text() for text in legend.get_texts()]

    names = ["qmix (3 seeds)", "vdn (1 seed)"]
    assert words(lines, "", WIN_RATE) == ("mean over seeds, band: 95 % Student-t interval", names)
    assert words(lines, "", WIN_RATE, "mean", "none") == ("mean over seeds", names)
    assert words(lines, "", WIN_RATE, "iqm", "ci", 5) == (
        "interquartile mean over seeds, band: 95 % percentile bootstrap interval, "
        "each seed's mean of the last 5 points",
        names,
    )
    assert words(lines[1:], "", WIN_RATE) == ("", ["vdn (1 seed)"])
    assert len(plot.figure(lines, "", WIN_RATE).axes[0].collections) == 1  # a single seed has no band


def test_gaps_stay_gaps_and_a_point_on_its_own_has_a_marker():
    values = np.array([[0.1, np.nan, 0.3, np.nan, *np.full(30, 0.5)]])
    line = curves.Line("qmix", "", curves.Curve(np.arange(1, 35) * 1_000_000, values))
    [axes] = plot.figure([line], "", WIN_RATE).axes
    assert np.isnan(axes.lines[0].get_ydata()).tolist() == [False, True, False, True] + [False] * 30
    assert {0, 2} <= set(axes.lines[0].get_markevery())
    assert len(axes.lines[0].get_markevery()) <= 10
    assert axes.get_xlabel() == "env steps per seed (millions)"


def blank(algo: str) -> curves.Line:
    return curves.Line(algo, "", curves.Curve(np.array([1]), np.array([[1.0]])))


def test_every_algorithm_keeps_its_look_and_is_told_apart_without_colour():
    known = choices("algo")
    assert set(ORDER) <= set(known)
    found = dict(zip(known, looks([blank(algo) for algo in known]), strict=True))
    assert len({(look["linestyle"], look["marker"]) for look in found.values()}) == len(known)
    for algo in known:
        assert looks([blank("something_new"), blank(algo)])[1] == found[algo]
    new, old, newer = looks([blank("something_new"), blank("qmix"), blank("something_newer")])
    assert len({(look["linestyle"], look["marker"]) for look in (new, old, newer)}) == 3


def test_configurations_of_an_algorithm_differ_in_line_style_marker_and_lightness():
    found = looks([blank("me_qmix")] * 4 + [blank("qmix")] * 4)
    assert len({(look["linestyle"], look["marker"]) for look in found}) == 8
    for four in (found[:4], found[4:]):
        assert len({look["linestyle"] for look in four}) == len({look["marker"] for look in four}) == 4
    lightness = [float(np.mean(matplotlib.colors.to_rgb(look["color"]))) for look in found]
    assert lightness[:4] == sorted(set(lightness[:4])) and lightness[4:] == sorted(set(lightness[4:]))


def test_committed_learning_curves_are_drawn_from_their_csv_files(tmp_path, monkeypatch, experiment):
    script = experiment("learning_curves")
    results, copies = script.units.RESULTS, tmp_path / "results"
    copies.mkdir()
    for path in (*results.glob("*.csv"), *results.glob("*.json")):
        (copies / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(script.units, "RESULTS", copies)
    monkeypatch.setattr(sys, "argv", ["learning_curves.py"])
    script.main()
    assert (copies / "README.md").read_text() == (results / "README.md").read_text()
    assert {path.name for path in copies.glob("*.png")} == {path.name for path in results.glob("*.png")}
