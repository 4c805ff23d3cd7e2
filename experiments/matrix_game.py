"""Matrix games: how many of 100 seeds end on the optimal joint action, and what Q_tot they have learnt.

    python experiments/matrix_game.py settings   # Table 1's game by exploration and replay, QMIX and ME-QMIX
    python experiments/matrix_game.py games      # three games, every algorithm of configs/algo

Every row is one vmapped run. A seed counts when its greedy joint action pays the optimum and nothing in its training
ever became NaN or infinite. Rows that are in the results already are not run again; without an argument the tables are
only written anew. Results go to experiments/results/matrix_game/.
"""

import argparse
import csv
import itertools
import json
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pages
from scipy import stats

from meigm_jax import train
from meigm_jax.runs.restore import Restored, restore
from meigm_jax.types import Learner
from meigm_jax.usage import choices

RESULTS = Path(__file__).parent / "results" / "matrix_game"
SEEDS = 100
GAMES = {  # as numbered in the QPLEX paper's repository; the second is Table 1 of the ME-IGM paper
    "1": [[10.4, 0.0, 10.0], [0.0, 10.0, 10.0], [10.0, 10.0, 10.0]],
    "2": [[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]],
    "3": [[8.0, -12.0, -12.0], [-12.0, 6.0, 0.0], [-12.0, 0.0, 6.0]],
}
JOINT = list(itertools.product(range(3), repeat=2))
# In `games`, what is learnt from does not favour the optimum: actions of epsilon-greedy algorithms are random
# throughout, as in the literature's games, those of the others come from their own policies, and replay is uniform.
GAMES_SETTING = [
    "replay.return_weight=0",
    "hyper.epsilon_end=1.0",
    "hyper.learning_rate=3e-3",
    "train.updates_per_chunk=8",
    "train.in_turn=false",
    "algo.agent.name=mlp",
    "algo.agent.hidden_dim=32",
    "evaluation.interval=12_800",
]
# Its authors' for matrix games, but that their kernels' layers are 64 wide: 11 minutes for 100 seeds.
QPLEX_SIZES = ("algo.mixer.num_kernels=10", "algo.mixer.layers=3", "algo.mixer.kernel_dim=16")
WEIGHTED_SIZES = ("algo.rule.central_dim=64",)  # 256 elsewhere: 11 minutes for 100 seeds
OF_ALGO = {"qplex": QPLEX_SIZES, "me_qplex": QPLEX_SIZES, "cw_qmix": WEIGHTED_SIZES, "ow_qmix": WEIGHTED_SIZES}
UNIFORM = "replay.return_weight=0"
LOW = "hyper.alpha_start=0.03"
SETTINGS: dict[str, list[str]] = {  # name -> arguments
    "ME-QMIX, default (return-weighted replay, alpha from 4)": ["algo=me_qmix"],
    "ME-QMIX, uniform replay, alpha from 4": ["algo=me_qmix", UNIFORM],
    "ME-QMIX, return-weighted replay, alpha from 0.03": ["algo=me_qmix", LOW],
    "ME-QMIX, uniform replay, alpha from 0.03": ["algo=me_qmix", UNIFORM, LOW],
    "QMIX, uniform replay, annealed epsilon": ["algo=qmix", UNIFORM],
    "QMIX, uniform replay, epsilon 0.05 throughout": ["algo=qmix", UNIFORM, "hyper.epsilon_start=0.05"],
    "QMIX, uniform replay, uniform exploration": ["algo=qmix", UNIFORM, "hyper.epsilon_end=1.0"],
    "QMIX, return-weighted replay, annealed epsilon": ["algo=qmix"],
}

ANALYSIS = """What to expect: as long as the partner plays A with probability p, A is worth 8 p - 12 (1 - p) and B
is worth -12 p, so additive credit prefers A only where p > 3/8. Uniform play gives p = 1/3. Drawing from the replay in
proportion to exp(0.1 x return) raises the share of A among the partners of A in what is learnt from 1/3 to 0.79 under
uniform play. The weight does not depend on the names of the actions. It favours what once paid, so it is off by
default, where rewards are random."""


CANNOT = "no: monotone, cannot represent any of them"
LITERATURE = {  # what is said of each
    "vdn": "no: additive, cannot represent any of them (QTRAN, 2019; QPLEX, 2021)",
    "qmix": f"{CANNOT} (QTRAN, 2019; QPLEX, 2021)",
    "qmix_long_epsilon": f"{CANNOT}",
    "qatten": f"{CANNOT} (QPLEX, 2021)",
    "qplex": "yes: represents all of them exactly (QPLEX, 2021)",
    "qtran": "yes: represents all of them exactly (QTRAN, 2019)",
    "cw_qmix": "greedy action yes, Q_tot no (weighted QMIX, 2020)",
    "ow_qmix": "greedy action yes, Q_tot no (weighted QMIX, 2020)",
    "me_qmix": "greedy action yes in game 2, Q_tot no (ME-IGM, 2024)",
    "dmix": "its mean is QMIX's: as QMIX",
    "ddn": "its mean is VDN's: as VDN",
    "me_qplex": "represents what QPLEX does",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=("settings", "games"), help="which to run; none: only rewrite")
    parser.add_argument("--algos", nargs="+", default=choices("algo"), help="for games (default: all)")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if "settings" in options.tables:
        for name, arguments in SETTINGS.items():
            run_unit("settings", (name,), "2", arguments)
    if "games" in options.tables:
        for algo, game in itertools.product(options.algos, GAMES):
            run_unit("games", (algo, game), game, [f"algo={algo}", *GAMES_SETTING, *OF_ALGO.get(algo, ())])
    pages.write(RESULTS, "\n\n".join((SETTINGS_INTRO + settings_table(), ANALYSIS, games_section())))


def run_unit(table: str, key: tuple[str, ...], game: str, arguments: list[str]) -> None:
    """Run one row of `table` unless it is there, and append it to the table's CSV."""
    path = RESULTS / f"{table}.csv"
    if path.exists() and key in read(table):
        return
    returns, finite, q_tot = play([f"env.options.payoff={json.dumps(GAMES[game])}", *arguments])
    names = ["setting", "seed", "greedy_return", "finite"]
    if table == "games":
        names = ["algo", "game", *names[1:], *(f"q_{'ABC'[i]}{'ABC'[j]}" for i, j in JOINT)]
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(names)
        for seed in range(SEEDS):
            values = [] if q_tot is None or table == "settings" else [f"{value:.3f}" for value in q_tot[seed]]
            writer.writerow([*key, seed, round(float(returns[seed]), 4), int(finite[seed]), *values])


def play(arguments: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Per seed: return of the greedy joint action, whether all of training was finite, Q_tot of the joint actions."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        if code := train.main(
            ["+env=matrix_game", "log.progress=false", f"seeds={SEEDS}", f"run_dir={run_dir}", *arguments]
        ):
            raise SystemExit(code)
        members = json.loads((run_dir / "summary.json").read_text())["seeds"]
        q_tot = joint_values(restore(run_dir, None, "newest", warnings.warn))
    returns = np.array([member["final"]["greedy"]["return"] for member in members])
    return returns, np.array([member["non_finite"] is None for member in members]), q_tot


def joint_values(restored: Restored) -> np.ndarray | None:
    """Q_tot [S, 9] of every member; None where the algorithm has none."""
    _, at = restored.env.reset(jax.random.key(0))
    first = jax.tree.map(lambda x: x[None, None], at)
    value = restored.algorithm.joint_value
    if value is None:
        return None

    def of_member(learner: Learner) -> jax.Array:
        return jax.vmap(lambda action: value(learner, first, action[None, None])[0, 0])(jnp.array(JOINT))

    return np.asarray(jax.jit(jax.vmap(of_member))(restored.learner))


def read(table: str) -> dict[tuple[str, ...], np.ndarray]:
    """Row of `table` -> [S, 2 or 11]: greedy return, finite, and in `games` Q_tot of the nine joint actions, if any."""
    keys = 1 if table == "settings" else 2
    found: dict[tuple[str, ...], list[list[float]]] = {}
    with (RESULTS / f"{table}.csv").open() as file:
        for row in list(csv.reader(file))[1:]:
            found.setdefault(tuple(row[:keys]), []).append([float(x) for x in row[keys + 1 :]])
    return {key: np.array(rows) for key, rows in found.items()}


def share(rows: np.ndarray, game: str) -> tuple[int, str]:
    """Seeds that end on the optimum, and the 95 % Wilson interval of their share."""
    optimal = int(np.sum((np.abs(rows[:, 0] - np.max(GAMES[game])) < 1e-3) & (rows[:, 1] == 1)))
    low, high = stats.binomtest(optimal, len(rows)).proportion_ci(method="wilson")
    return optimal, f"{low:.2f} to {high:.2f}"


SETTINGS_INTRO = """# Matrix games

How many of 100 seeds end with the greedy joint action that pays the optimum, with the 95 % Wilson interval. A seed with
any NaN or infinity does not count. Made by `python experiments/matrix_game.py settings`, and `games` for several games.

## The game of Table 1, by exploration and replay

"""


def settings_table() -> str:
    lines = [
        "| setting | optimal | 95 % interval | end on 0 | end below 0 | not finite |",
        "|---|---|---|---|---|---|",
    ]
    for (name,), rows in read("settings").items():
        optimal, interval = share(rows, "2")
        returns, finite = rows[:, 0], rows[:, 1]
        others = f"{int(np.sum(returns == 0))} | {int(np.sum(returns < 0))} | {int(np.sum(finite == 0))}"
        lines.append(f"| {name} | {optimal} of {len(rows)} | {interval} | {others} |")
    return "\n".join(lines)


GAMES_INTRO = """## Three games, every algorithm

Replay is uniform; epsilon-greedy algorithms act at random throughout (epsilon 1), the others by their own policies.
What decides is then what a mixer can represent, not what it was shown. An MLP agent of 32 units, learning rate 0.003,
12,800 env steps, 3200 gradient steps. QPLEX has 10 kernels of 3 layers, as its authors' for matrix games, 16 units
wide, weighted QMIX a central network of 64 units. Q_tot: median over seeds, rows A, B, C. Error: largest |Q_tot -
payoff| of a seed, median over seeds."""


def games_section() -> str:
    if not (RESULTS / "games.csv").exists():
        return ""
    found, parts = read("games"), [GAMES_INTRO, pages.notes(RESULTS)]
    for game, payoff in GAMES.items():
        rows_of = {algo: rows for (algo, of), rows in sorted(found.items()) if of == game}
        lines = [f"### Game {game}: {matrix(np.array(payoff).ravel())}", ""]
        lines += [
            "| algorithm | optimal | 95 % interval | Q_tot | error | the literature |",
            "|---|---|---|---|---|---|",
        ]
        for algo, rows in rows_of.items():
            optimal, interval = share(rows, game)
            q_tot = rows[:, 2:]
            error = np.median(np.max(np.abs(q_tot - np.array(payoff).ravel()), axis=1)) if q_tot.size else np.nan
            learnt = f"{matrix(np.median(q_tot, axis=0))} | {error:.2f}" if q_tot.size else "none | -"
            lines.append(f"| {algo} | {optimal} of {len(rows)} | {interval} | {learnt} | {LITERATURE.get(algo, '-')} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def matrix(values: np.ndarray) -> str:
    """Nine numbers as [[A, ..], [B, ..], [C, ..]]."""
    return "[" + ", ".join("[" + ", ".join(f"{x:.1f}" for x in row) + "]" for row in values.reshape(3, 3)) + "]"


if __name__ == "__main__":
    main()
