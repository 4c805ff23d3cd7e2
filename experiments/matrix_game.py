"""Table 1's matrix game: how many of 100 seeds end on the optimal joint action, by algorithm and setting.

    python experiments/matrix_game.py [--seeds 100]

Every setting is one vmapped run. A seed counts when its greedy joint action pays the optimum and nothing in its
training ever became NaN or infinite. Results go to experiments/results/matrix_game/.
"""

import argparse
import csv
import json
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats

from meigm_jax import train

RESULTS = Path(__file__).parent / "results" / "matrix_game"
OPTIMUM = 8.0
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

ANALYSIS = """
What to expect: as long as the partner plays A with probability p, A is worth 8 p - 12 (1 - p) and B is worth -12 p, so
additive credit prefers A only where p > 3/8. Uniform play gives p = 1/3. Drawing from the replay in proportion to
exp(0.1 x return) raises the share of A among the partners of A in what is learnt from 1/3 to 0.79 under uniform play.
The weight does not depend on the names of the actions. It favours what once paid, so it is off by default, where
rewards are random.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = {name: play(arguments, options.seeds) for name, arguments in SETTINGS.items()}
    with (RESULTS / "returns.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "seed", "greedy_return", "finite"])
        for name, (returns, finite) in found.items():
            writer.writerows([name, s, r, int(f)] for s, (r, f) in enumerate(zip(returns, finite, strict=True)))
    (RESULTS / "README.md").write_text(table(found, options.seeds))
    print(table(found, options.seeds))


def play(arguments: list[str], seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Greedy return of every seed's joint action, and whether all of its training was finite."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        if code := train.main(
            ["+env=matrix_game", "log.progress=false", f"seeds={seeds}", f"run_dir={run_dir}", *arguments]
        ):
            raise SystemExit(code)
        summary = json.loads((run_dir / "summary.json").read_text())
    members = summary["seeds"]
    returns = np.array([member["final"]["greedy"]["return"] for member in members])
    return returns, np.array([member["non_finite"] is None for member in members])


def table(found: dict[str, tuple[np.ndarray, np.ndarray]], seeds: int) -> str:
    lines = [
        "# The matrix game of Table 1",
        "",
        f"Made by `python experiments/matrix_game.py --seeds {seeds}`: how many of {seeds} seeds end with the greedy",
        "joint action that pays the optimum of 8, with the 95 % Wilson interval. A seed with any NaN or infinity does",
        "not count.",
        "",
        "| setting | optimal | 95 % interval | end on 0 | end below 0 | not finite |",
        "|---|---|---|---|---|---|",
    ]
    for name, (returns, finite) in found.items():
        optimal = int(np.sum((returns == OPTIMUM) & finite))
        low, high = stats.binomtest(optimal, seeds).proportion_ci(method="wilson")
        others = f"{int(np.sum(returns == 0))} | {int(np.sum(returns < 0))} | {int(np.sum(~finite))}"
        lines.append(f"| {name} | {optimal} of {seeds} | {low:.2f} to {high:.2f} | {others} |")
    return "\n".join(lines) + "\n" + ANALYSIS


if __name__ == "__main__":
    main()
