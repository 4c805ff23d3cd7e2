"""Tables and figures of the benchmark, from its results alone."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pages

Row = dict[str, Any]  # {"unit": what was measured, "repeats": [what was found, ...]}
REPLAYS = {"qmix": "recomputed, the default", "qmix_stored": "stored in float16"}
SPLIT = {
    "qmix": "QMIX, split",
    "qmix_whole": "QMIX, on one device",
    "me_qmix": "ME-QMIX, split",
    "me_qmix_whole": "ME-QMIX, on one device",
}
TRAINERS = {"qmix": "QMIX", "me_qmix": "ME-QMIX", "jaxmarl": "JaxMARL's QMIX"}
ENVIRONMENTS = {"ours": "ours", "step": "JaxMARL `step`", "step_env": "JaxMARL `step_env`, pool"}
COLOURS = {"qmix": "C0", "ours": "C0", "me_qmix": "C1", "jaxmarl": "C3", "step": "C3", "step_env": "C2"}

METHOD = """\
# Benchmark

Made by `python experiments/benchmark.py --jaxmarl PATH`, from the JSON files here: our trainer and JaxMARL's own QMIX
(`baselines/QLearning/qmix_rnn.py` of its repository, imported as it is) on SMAX, both with the environments of the
JaxMARL that is installed, a GRU agent of width 64 and mixers of 32/64.

- Every measurement is a process of its own; what is compared takes turns. A cell is the median over processes and, in
  brackets where there are several, the smallest and the largest. **Ratios are of medians; above 1, ours is that many
  times faster or smaller.**
- Work is equal in number and size: environments, env steps, gradient steps, sequences per batch, sequences in the
  replay. It is not the same algorithm: our QMIX learns from TD(lambda) targets, reads its last actions and draws
  sequences that it continues at every episode's end; ME-QMIX learns a temperature and a transformation besides.
  JaxMARL's `TEST_DURING_TRAINING` is off, and we do not evaluate either.
- An iteration collects one sequence per environment, stores them and takes its gradient steps. Neither trainer learns
  in the first iterations (JaxMARL until it has added as many times as its batch is large). Ours are timed directly
  before and after; JaxMARL's, which is one program from start to end, by differences: of two lengths for iterations
  that only collect, and of the same length with and without learning (`LEARNING_STARTS` is an argument of its program).
  The gradient steps are counted: a measurement in which a trainer took others than it should have fails.
- On a CPU one seed of ours is split among the cores (`devices=2`), several seeds are shared by devices as always; *One
  seed split among the cores* has the same on one device. JaxMARL's trainer has no such option.
- *Gradient step*: the difference of iterations with all gradient steps and with none, divided by their number.
- *Compile*: tracing and compiling of one training, without any cache (with `--at-once`, beside the others'). *Peak
  memory*: of the process that compiles it and trains once, resident on the CPU, allocated on the device elsewhere.
  *Replay*: its arrays, by their shapes.
- *The environment alone*: random available actions. Ours and `step_env` go on in one of a pool of start states when an
  episode ends, as in our trainer; JaxMARL's `step`, which its trainer uses, makes a start state in every step.
- *Limits*: the environment alone bounds collecting, the matrix products bound learning: their operations are counted in
  the traced program, the device's speed is that of 4096 x 4096 products; products as narrow as the agent's are slower.
  The environment alone is compiled with XLA's defaults and runs on one device: on a CPU a split seed collects faster.
"""


def write(folder: Path) -> None:
    """README.md and a figure per device."""
    parts = [METHOD, *(f"{text}\n" for text in [pages.notes(folder)] if text)]
    for path in sorted(folder.glob("*.json")):
        results = json.loads(path.read_text())
        parts.append(section(results))
        if draw(results["units"], path.with_suffix(".png")):
            parts.append(f"![how it scales: {results['device']['name']}]({path.stem}.png)\n")
    pages.write(folder, "\n".join(parts))


def section(results: dict[str, Any]) -> str:
    """All tables of one device."""
    device, rows = results["device"], results["units"]
    peer = f", JaxMARL's repository at {results['peer']}" if "peer" in results else ""
    tables = [
        ("The environment alone, env steps per second", environments(rows)),
        ("Training", training(rows)),
        ("One seed split among the cores", splits(rows)),
        ("What our replay keeps of observations and state", replays(rows)),
        ("Limits", limits(rows)),
        *(
            (f"Seeds, {name}: ms per seed and iteration{work_of(rows, name)}", scaling(rows, "seeds", per_seed, name))
            for name in sorted({row["unit"]["env"] for row in matching(rows, kind="train")}, key=size_of)
        ),
        ("Environments: env steps per second while collecting", collecting(rows)),
        ("Agents: ms per iteration", scaling(rows, "env", lambda unit: 1000)),
    ]
    lines = [f"## {device['name']}, jax {device['jax']}{peer}", ""]
    for title, table in tables:
        if table:
            lines += [f"### {title}", "", *table, ""]
    return "\n".join(lines)


def environments(rows: list[Row]) -> list[str]:
    """Every environment and number of them; speeds and ratios."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in matching(rows, kind="env"):
        unit = row["unit"]
        speeds = [unit["num_envs"] * unit["length"] / each["seconds"] for each in row["repeats"]]
        found.setdefault((unit["env"], unit["num_envs"]), {})[unit["system"]] = speeds
    header = ["scenario", "environments", *ENVIRONMENTS.values(), "ours / `step`", "ours / `step_env`"]
    lines = []
    for (name, number), speeds in sorted(found.items(), key=lambda item: (size_of(item[0][0]), item[0])):
        ratios = [ratio(speeds.get("ours"), speeds.get(peer)) for peer in ("step", "step_env")]
        lines.append([name, number, *(cell(speeds.get(system)) for system in ENVIRONMENTS), *ratios])
    return table(header, lines)


def training(rows: list[Row]) -> list[str]:
    """The setting of JaxMARL: times, compilation, memory."""
    settings = [row["unit"] for row in matching(rows, kind="facts")]
    if not settings:
        return []
    unit = settings[0]
    of = {key: unit[key] for key in ("env", "seeds", "num_envs", "capacity", "length", "batch_size")}
    lines = [
        f"{unit['env']}, {unit['num_envs']} environments x {unit['length']} steps per iteration, batches of "
        f"{unit['batch_size']} sequences, a replay of {unit['capacity']} sequences, {unit['seeds']} seed.",
        "",
    ]
    header = ["", *TRAINERS.values(), "ratio, QMIX", "ratio, ME-QMIX"]
    return lines + table(header, [line for line in training_lines(rows, of) if line[1] != "-"])


def training_lines(rows: list[Row], of: dict[str, Any]) -> list[list[str]]:
    transitions = of["num_envs"] * of["length"]
    timed = {"kind": "train", **of}
    steps = sorted({n for row in matching(rows, **timed) for n in row["unit"]["gradient_steps"]}, reverse=True)
    collects = (f"only collecting: {of['num_envs']} x {of['length']} env steps", "rollout")
    times = [*((f"iteration, gradient steps: {n}", f"iteration_{n}") for n in steps), collects]
    lines = [compared(f"{name}, ms", rows, field, 1000, **timed) for name, field in times]
    lines += [
        compared("gradient step, ms", rows, "gradient_step", 1000, **timed),
        compared("a step of all environments, ms", rows, "rollout", 1000 / of["length"], **timed),
        *(compared(f"{name}: env steps/s", rows, field, transitions, True, **timed) for name, field in times),
        compared("compile, s", rows, "compile", 1, **of, kind="run"),
        compared("peak memory, GB", rows, "peak_memory", 1e-9, **of, kind="run"),
        compared("replay, bytes per transition", rows, "replay", 1, **of, kind="facts"),
    ]
    return lines


def compared(name: str, rows: list[Row], field: str, scale: float, speed: bool = False, **of: Any) -> list[str]:
    """A line of cells per trainer and ratios; a speed is `scale` over what was measured, a cost `scale` times it."""
    costs = [values(rows, field, system=system, **of) for system in TRAINERS]
    cells = [cell([scale / x if speed else scale * x for x in each]) for each in costs]
    return [name, *cells, *(ratio(costs[2], mine) for mine in costs[:2])]


def replays(rows: list[Row]) -> list[str]:
    """QMIX with either replay: what it costs in memory, and in a gradient step, which makes observations again."""
    columns = {
        "bytes per transition": ("facts", "replay", 1.0),
        "peak memory, GB": ("run", "peak_memory", 1e-9),
        "gradient step, ms": ("train", "gradient_step", 1000.0),
        "collecting, ms": ("train", "rollout", 1000.0),
    }
    return variants(rows, "QMIX, its observations", REPLAYS, columns)


def splits(rows: list[Row]) -> list[str]:
    """A seed split among the CPU's cores, beside the same on one device."""
    steps = sorted({n for row in matching(rows, system="qmix_whole") for n in row["unit"]["gradient_steps"]})
    columns = {
        **{f"iteration, gradient steps: {n}, ms": ("train", f"iteration_{n}", 1000.0) for n in reversed(steps)},
        "collecting, ms": ("train", "rollout", 1000.0),
        "gradient step, ms": ("train", "gradient_step", 1000.0),
        "compile, s": ("run", "compile", 1.0),
        "peak memory, GB": ("run", "peak_memory", 1e-9),
    }
    return variants(rows, "one seed", SPLIT, columns)


def variants(
    rows: list[Row], title: str, systems: dict[str, str], columns: dict[str, tuple[str, str, float]]
) -> list[str]:
    """A line per system; columns: kind and field of a measurement, and its scale. Nothing unless all were measured."""
    if not all(matching(rows, kind="facts", system=system) for system in systems):
        return []
    size = max(row["unit"]["capacity"] for row in matching(rows, kind="facts"))
    body = []
    for system, name in systems.items():
        of = {"system": system, "capacity": size}
        found = [[scale * x for x in values(rows, field, kind=kind, **of)] for kind, field, scale in columns.values()]
        body.append([name, *map(cell, found)])
    return table([title, *columns], body)


def limits(rows: list[Row]) -> list[str]:
    """What the environment and the matrix products alone would take, beside what was measured."""
    settings, speeds = matching(rows, kind="facts"), {k: values(rows, k, kind="products") for k in ("large", "narrow")}
    if not settings or not speeds["large"]:
        return []
    unit = settings[0]["unit"]
    of = {key: unit[key] for key in ("env", "num_envs", "length")}
    timed = {**of, "kind": "train", "capacity": unit["capacity"]}
    large, narrow = (f"{median(speeds[key]) / 1e9:.0f}" for key in ("large", "narrow"))
    lines = [f"Matrix products: {large} GFLOP/s where they are large, {narrow} where as narrow as the agent's.", ""]
    body = []
    for system, own in {"qmix": "ours", "me_qmix": "ours", "jaxmarl": "step"}.items():
        alone = [1000 * x for x in values(rows, "seconds", kind="env", system=own, **of)]
        collecting = [1000 * x for x in values(rows, "rollout", system=system, **timed)]
        flops = values(rows, "flops", kind="facts", system=system)
        products = [1000 * x / median(speeds["large"]) for x in flops]
        learning = [1000 * x for x in values(rows, "gradient_step", system=system, **timed)]
        work = f"{flops[0] / 1e9:.2f}" if flops else "-"
        shares = [ratio(alone, collecting), ratio(products, learning)]
        cells = [cell(alone), cell(collecting), shares[0], work, cell(products), cell(learning), shares[1]]
        body.append([TRAINERS[system], *cells])
    header = [
        "",
        "env alone, ms",
        "collecting, ms",
        "share",
        "GFLOP",
        "products alone, ms",
        "gradient step, ms",
        "share",
    ]
    return lines + table(header, body)


def work_of(rows: list[Row], name: str) -> str:
    """' of 8 gradient steps on 32 sequences': what many seeds do in an environment."""
    many = [row["unit"] for row in matching(rows, kind="train", env=name) if row["unit"]["seeds"] > 1]
    return f" of {many[0]['gradient_steps'][0]} gradient steps on {many[0]['batch_size']} sequences" if many else ""


def per_seed(unit: dict[str, Any]) -> float:
    """From seconds to ms per seed."""
    return 1000 / unit["seeds"]


def scaling(rows: list[Row], axis: str, scale: Callable[[dict[str, Any]], float], name: str | None = None) -> list[str]:
    """Iterations with gradient steps over seeds (of the environment `name`) or agents, per trainer, and ratios."""
    found = curves(rows, axis, scale, name)
    points = sorted({point for curve in found.values() for point in curve}, key=size_of)
    if len(points) < 2:
        return []
    lines = []
    for point in points:
        cells = [found.get(system, {}).get(point) for system in TRAINERS]
        lines.append([str(point), *map(cell, cells), *(ratio(cells[2], mine) for mine in cells[:2])])
    return table([axis, *TRAINERS.values(), "ratio, QMIX", "ratio, ME-QMIX"], lines)


def curves(
    rows: list[Row], axis: str, scale: Callable[[dict[str, Any]], float], name: str | None = None
) -> dict[str, dict[Any, list[float]]]:
    """System -> point on the axis -> times of iterations with gradient steps, of what was measured for such curves."""
    name = name or next((row["unit"]["env"] for row in rows if row["unit"]["kind"] == "train"), "")
    fixed = {"env": name} if axis == "seeds" else {"seeds": 1}
    learning = [row for row in matching(rows, kind="train", **fixed) if len(row["unit"]["gradient_steps"]) == 1]
    if axis == "seeds" and learning:  # work as that of most seeds
        most = max(learning, key=lambda row: row["unit"]["seeds"])["unit"]
        learning = matching(learning, **{key: most[key] for key in ("batch_size", "gradient_steps")})
    found: dict[str, dict[Any, list[float]]] = {}
    for row in learning:
        unit, [steps] = row["unit"], row["unit"]["gradient_steps"]
        times = [scale(unit) * each[f"iteration_{steps}"] for each in row["repeats"]]
        found.setdefault(unit["system"], {})[unit[axis]] = times
    return found


def collecting(rows: list[Row]) -> list[str]:
    found = rollouts(rows)
    points = sorted({point for curve in found.values() for point in curve})
    systems = ("qmix", "jaxmarl")
    body = []
    for point in points:
        cells = [found.get(system, {}).get(point) for system in systems]
        body.append([str(point), *map(cell, cells), ratio(*cells)])
    return table(["environments", *(TRAINERS[system] for system in systems), "ratio"], body)


def rollouts(rows: list[Row]) -> dict[str, dict[int, list[float]]]:
    """System -> number of environments -> env steps per second with its policy."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in matching(rows, kind="train", gradient_steps=[]):
        unit = row["unit"]
        speeds = [unit["num_envs"] * unit["length"] / each["rollout"] for each in row["repeats"]]
        found.setdefault(unit["system"], {})[unit["num_envs"]] = speeds
    return found


class Line(NamedTuple):
    """A line of a panel."""

    label: str
    colour: str
    style: str
    curve: dict[int, list[float]]


def draw(rows: list[Row], path: Path) -> bool:
    """A figure of what scales: over seeds, environments and agents. False where no line has two points."""
    from matplotlib.figure import Figure

    agents = {
        system: {size_of(name): times for name, times in curve.items()}
        for system, curve in curves(rows, "env", lambda unit: 1000).items()
    }
    panels = [
        ("seeds", "ms per seed and iteration", trainers(curves(rows, "seeds", per_seed))),
        ("environments", "env steps per second", trainers(rollouts(rows)) + environments_alone(rows)),
        ("agents", "ms per iteration", trainers(agents)),
    ]
    panels = [panel for panel in panels if any(len(line.curve) > 1 for line in panel[2])]
    if not panels:
        return False
    figure = Figure(figsize=(3.5 * len(panels), 3.2), dpi=80, layout="constrained")
    for axes, (axis, label, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for line in lines:
            points = sorted(line.curve)
            middles = [median(line.curve[point]) for point in points]
            axes.plot(points, middles, line.style, marker="o", markersize=3, color=line.colour, label=line.label)
        axes.set(xlabel=axis, ylabel=label, xscale="log", ylim=(0, None))
        points = sorted({point for line in lines for point in line.curve})
        axes.set_xticks(points, [str(point) for point in points])
        axes.minorticks_off()
        axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Software": None})
    return True


def trainers(found: dict[str, dict[int, list[float]]]) -> list[Line]:
    return [Line(TRAINERS[system], COLOURS[system], "-", curve) for system, curve in found.items()]


def environments_alone(rows: list[Row]) -> list[Line]:
    names = {system: f"{name.replace('`', '')} alone" for system, name in ENVIRONMENTS.items()}
    return [Line(names[system], COLOURS[system], ":", curve) for system, curve in alone(rows).items()]


def alone(rows: list[Row]) -> dict[str, dict[int, list[float]]]:
    """System -> number of environments -> env steps per second of the first environment, without a policy."""
    measured = matching(rows, kind="env")
    found: dict[str, dict[int, list[float]]] = {}
    for row in matching(measured, env=measured[0]["unit"]["env"]) if measured else []:
        unit = row["unit"]
        speeds = [unit["num_envs"] * unit["length"] / each["seconds"] for each in row["repeats"]]
        found.setdefault(unit["system"], {})[unit["num_envs"]] = speeds
    return found


def matching(rows: list[Row], **of: Any) -> list[Row]:
    """Those whose unit has these values."""
    return [row for row in rows if all(row["unit"].get(key) == value for key, value in of.items())]


def values(rows: list[Row], field: str, **of: Any) -> list[float]:
    """What the repeats of the units with these values found, of those that have the field."""
    return [each[field] for row in matching(rows, **of) for each in row["repeats"] if field in each]


def cell(found: Sequence[float] | None) -> str:
    """'382 [371, 395]': the median and the range; '-' where nothing was measured."""
    if not found:
        return "-"
    if len(found) == 1 or len(set(map(number, found))) == 1:
        return number(median(found))
    return f"{number(median(found))} [{number(min(found))}, {number(max(found))}]"


def number(x: float) -> str:
    """Three digits, or all of them before the point."""
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"


def ratio(over: Sequence[float] | None, under: Sequence[float] | None) -> str:
    """Of the medians."""
    return f"{median(over) / median(under):.2f}" if over and under else "-"


def table(header: Sequence[Any], body: Sequence[Sequence[Any]]) -> list[str]:
    """Markdown; nothing where there is no line."""
    lines = [f"| {' | '.join(map(str, line))} |" for line in (header, *body)]
    return [lines[0], "|---" * len(header) + "|", *lines[1:]] if body else []


def size_of(point: Any) -> int:
    """Where it stands on an axis: a number, or the agents in an environment's name ('smax_10v10' -> 10)."""
    return point if isinstance(point, int) else int(next(iter(re.findall(r"\d+", point)), 0))


def slug(device: dict[str, Any]) -> str:
    """A file name for a device: 'AMD EPYC, 2 cores' -> 'amd_epyc_2_cores'."""
    return "_".join(re.findall(r"[a-z0-9]+", device["name"].lower()))
