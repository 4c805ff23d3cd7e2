"""Tables and figures of the benchmark, from its results alone."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

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

## Where a gradient step's time goes

QMIX with one seed split between two cores of an AMD EPYC (Zen 5), from XLA's profile of the compiled program (once, by
hand; the profile makes everything slower, so shares):

| | share |
|---|---|
| products over all rows, forward and by their inputs: as fast as large ones | 0.27 |
| weight gradients, products over 10320 rows into 64 x 64: at half of that speed | 0.21 |
| products of 80 x 64 in the GRU's three loops over 129 rows | 0.12 |
| its gates | 0.08 |
| its rows: read, written over | 0.08 |
| ReLU, biases, argmax, targets, hypernetworks' activations, the optimizer | 0.17 |
| observations made again from the units | 0.05 |
| sums over devices, and waiting for the other one | 0.03 |

Products alone would take little more than half of the step. A weight gradient alone, in the cache and with one factor
already transposed, reaches the speed of large products; why it does not within the step is open. It is not the memory
alone: half of the batch takes 0.48 of the time. In pieces that stay in the cache, or inside the backward loop where
their rows have just been made, they took as long; three of them as one product (192 columns) would be a third faster,
and what that needs of the loops costs as much. XLA transposes a factor in two passes where one would do. On one
device the three loops run one after the other on one core, and the other core waits: 36 ms instead of 30.

A sum over devices takes 0.07 ms as one array of all gradients, and took 1.5 ms as one of each; what shards have
collected is exchanged as one array, too. The loops over time write over what they have read: XLA would fill arrays for
their results with zeros, and copy them, before the first row (1 ms of 30). They read a row before they write to it:
else XLA copies whole arrays in every pass.

Since that table, each in turn with the version before, on an Intel Xeon, per iteration of 8 gradient steps and of one:

- the agent's inputs are one product, without sums of arrays after it, and XLA schedules for the CPU by memory: 317
  instead of 339 ms, 48.6 instead of 53.3 ms;
- a seed alone takes its turn without being copied, slice by slice, into a loop over seeds and out of it, and the norm
  that is logged is the one that clips: 700 instead of 1000 kernels, 365 instead of 411 ms, 60 instead of 63 ms (on a
  day when everything there took longer), and 9.6 instead of 11.0 s to compile.

**The rows of the AMD EPYC below are of the version before both, those of the Xeon of this one.** The Xeon multiplies
matrices as narrow as the agent's at 0.6 to 0.8 of its speed; products alone are half of a step there, too. Without the
six weight gradients a step would take 8 to 11 ms less, of which their operations need 4. Of the compilation 1.8 s are
Threefry's rounds in SMAX's start states, written out some thirty times: as loops, as jax.random has them, they take as
long.

What an iteration takes beside its gradient steps and collecting, 2 to 4 ms with batches of 32, is mostly the system's
first touch of the temporary memory (150 MB) in each call of the program: more iterations per call make it less.

## On a GPU

There an iteration's time is that of starting kernels, one after the other, whatever they hold: so many seeds cost
little more than one. Measured once, by hand, on an NVIDIA H100 (80 GB, jax 0.11.2): ME-QMIX on smax_5v5 at its own
settings, 128 steps per environment and 32 gradient steps on 4 sequences unless told otherwise.

| seeds | environments | | ms per iteration | of it collecting | env steps/s of all seeds |
|---|---|---|---|---|---|
| 1 | 16 | | 48.0 | 15.3 | 42.7k |
| 10 | 16 | | 68.4 | 17.0 | 300k |
| 10 | 16 | with the GRU and SMAX's ticks as loops of XLA | 218 | 30.4 | 94.0k |
| 64 | 16 | | 152 | 23.4 | 861k |
| 10 | 64 | | 71.3 | 19.8 | 1.15M |
| 10 | 64 | 8 gradient steps on 16 sequences | 43.8 | 19.5 | 1.87M |
| 10 | 16 | smax_10v10 | 90.1 | 20.9 | 227k |

So 10M env steps of ten seeds with 64 environments would be 1221 iterations, 87 s, without evaluations and compilation.
That run itself shared the GPU with six other trainings: 8.0M of 10M in 300 s. JaxMARL's trainer has not been measured
there; the rows of 1 and 16 seeds below are from `benchmark_measure.py` alone.

XLA's loop over 129 rows of a GRU starts 12 kernels a row forward and 13 backward, 4000 of the 4357 of a gradient step.
`modules/gru_kernel.py` makes each loop one kernel: 0.21 ms forward and 0.23 backward whatever the number of seeds, 1.7
us a row; both passes of ten seeds and 20 sequences take 0.53 instead of 3.58 ms. The eight ticks of an SMAX step in one
piece instead of a loop: 105 instead of 144 kernels a step. Of an iteration of ten seeds (68 ms, 22800 kernels) the GRU
has 21 ms; the rest are small kernels of 1 to 3 us. CUDA graphs of whole loops (XLA's
`--xla_gpu_enable_command_buffer=+WHILE`) changed nothing: 70 ms. Next would be the online and the target network's GRU
in one kernel (0.2 of 1.6 ms), and one array for all parameters in the optimizer.
"""


def write(folder: Path) -> None:
    """README.md and a figure per device."""
    parts = [METHOD]
    for path in sorted(folder.glob("*.json")):
        results = json.loads(path.read_text())
        parts.append(section(results))
        if draw(results["units"], path.with_suffix(".png")):
            parts.append(f"![how it scales: {results['device']['name']}]({path.stem}.png)\n")
    (folder / "README.md").write_text("\n".join(parts))


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
