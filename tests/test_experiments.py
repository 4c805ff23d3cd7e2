"""Scripts in experiments/ that call the engine themselves, in small."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[1] / "experiments" / "results"


def test_the_committed_index_names_every_page_and_no_page_shows_what_is_not_there(tmp_path, experiment):
    for path in (path for kind in ("README.md", "*.png") for path in RESULTS.rglob(kind)):
        copy = tmp_path / path.relative_to(RESULTS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy) if path.suffix == ".md" else copy.touch()
    experiment("pages").write_index(tmp_path)
    assert (tmp_path / "README.md").read_text() == (RESULTS / "README.md").read_text()
    for page in RESULTS.rglob("*.md"):
        targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|src=\"([^\"]+)\"", page.read_text())
        missing = [link or source for link, source in targets if not (page.parent / (link or source)).exists()]
        assert missing == [], page


def test_what_was_found_by_hand_stands_on_the_page(tmp_path, experiment):
    pages = experiment("pages")
    assert pages.notes(tmp_path) == ""
    found = {page.parent for page in RESULTS.rglob("notes.md")}
    assert {folder.name for folder in found} >= {"benchmark", "table_2", "matrix_game", "hyper_parameters"}
    for folder in found:
        assert pages.notes(folder) in (folder / "README.md").read_text()


@pytest.mark.parametrize("policy", ["random", "heuristic"])
def test_a_scenario_is_played_once_and_told_in_the_table(tmp_path, monkeypatch, experiment, policy):
    scenarios = experiment("scenarios")
    monkeypatch.setattr(scenarios, "RESULTS", tmp_path)
    monkeypatch.setattr(scenarios, "WIN_RATES", tmp_path / "win_rates.csv")
    monkeypatch.setattr(scenarios, "SPEEDS", tmp_path / "speed.csv")
    play = {"random": scenarios.random_play, "heuristic": scenarios.heuristic_play}[policy]
    scenarios.play_unit("smax_zerg_5v5", policy, play, 4)
    [row] = scenarios.read(scenarios.WIN_RATES)
    assert (row["scenario"], row["policy"], row["episodes"]) == ("smax_zerg_5v5", policy, "4")
    assert 0 <= float(row["win_rate"]) <= 1 and 1 <= float(row["episode_length"]) <= 101
    monkeypatch.setattr(scenarios, "evaluate", None)  # it is not played again
    scenarios.play_unit("smax_zerg_5v5", policy, play, 4)
    scenarios.write_readme()
    assert f"{float(row['win_rate']):.3f} [" in (tmp_path / "README.md").read_text()


def test_what_the_matrix_games_learn_is_written_and_read_again(tmp_path, monkeypatch, experiment):
    games = experiment("matrix_game")
    monkeypatch.setattr(games, "RESULTS", tmp_path)
    monkeypatch.setattr(games, "SEEDS", 2)
    small = ["+experiment=smoke", "algo=vdn", "algo.agent.name=mlp", "algo.agent.hidden_dim=8"]
    games.run_unit("games", ("vdn", "3"), "3", small)
    rows = games.read("games")[("vdn", "3")]
    assert rows.shape == (2, 2 + 9) and set(rows[:, 0]) <= {8.0, 6.0, 0.0, -12.0} and (rows[:, 1] == 1).all()
    q = rows[:, 2:].reshape(2, 3, 3)  # VDN adds: rows differ from each other by the same everywhere
    assert abs((q[:, 1:] - q[:, :1]) - (q[:, 1:, :1] - q[:, :1, :1])).max() < 2e-3
    monkeypatch.setattr(games, "play", None)  # a row that is there is not run again
    games.run_unit("games", ("vdn", "3"), "3", small)


def test_a_study_trains_what_is_missing_once_and_shows_it_beside_what_the_paper_reports(
    tmp_path, monkeypatch, experiment, capsys
):
    study, units = experiment("study"), experiment("units")
    monkeypatch.setattr(study, "units", units)
    monkeypatch.setattr(units, "RUNS", tmp_path)
    small = ("algo.agent.name=mlp", "algo.agent.hidden_dim=8", "log.progress=false")
    unit = units.Unit("matrix_game", "targets", ("algo=me_vdn", *small, "sweep.target_entropy=[0.1,0.2]"))
    lower, higher = (f"targets target_entropy={value}" for value in (0.1, 0.2))
    about = study.Study(
        name="figure_0",
        title="Figure 0",
        about="Of nothing.",
        units=(unit,),
        paper={("matrix_game", lower): "-12 or 0"},
        shows=("greedy", "entropy"),
        against=((lower, higher),),
    )
    study.main(about, ["--budget", "smoke", "--list"])
    assert "0 of 1 units are there" in capsys.readouterr().out and not list(tmp_path.iterdir())
    study.main(about, ["--budget", "smoke"])
    folder = tmp_path / "smoke_results"
    page = (folder / "figure_0" / "README.md").read_text()
    assert f"| matrix_game | {lower} | 2 x 4 |" in page and "| -12 or 0 |" in page
    assert f"| matrix_game | {higher} | 2 x 4 |" in page and f"P({lower} > {higher}) over matrix_game" in page
    assert {path.name for path in (folder / "figure_0").glob("*.png")} == {"matrix_game.png", "matrix_game.entropy.png"}
    measure, lines = units.read_csv(folder / "matrix_game.csv")
    assert measure.policy == "greedy" and set(lines) == {lower, higher}
    assert all(curve.values.shape[0] == 2 and curve.env_steps[-1] == 2048 for curve in lines.values())
    monkeypatch.setattr(units.train, "main", None)  # what is there is not trained again
    study.main(about, ["matrix_game/targets", "--budget", "smoke"])
    study.main(about, ["matrix_game", "--budget", "smoke", "--list"])
    assert "1 of 1 units are there" in capsys.readouterr().out
