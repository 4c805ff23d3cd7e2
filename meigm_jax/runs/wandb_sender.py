"""Sends a run directory to Weights & Biases: `python -m meigm_jax.runs.wandb_sender RUN_DIRECTORY`.

As a command it sends what wandb lacks of a finished run. During training `wandb_sink.py` starts it with the argument
`follow`: then it reads from standard input how many bytes of metrics.jsonl it may send, and the end of the input is the
end of the run, whether the trainer has finished, was stopped or was killed.

A point holds everything that was measured at one number of env steps, which is also wandb's own step. So the step of a
resumed wandb run tells what it has already, and nothing appears twice. Offline nothing can be looked up: there each
sitting makes a folder of its own, and wandb.json tells how far the folders of earlier sittings go.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from meigm_jax.arguments import Parser, exit_code
from meigm_jax.config import Member, members
from meigm_jax.hyper import format_hyper
from meigm_jax.registry import ConfigError
from meigm_jax.runs.files import write_text
from meigm_jax.runs.rows import Row, metric_keys
from meigm_jax.runs.saved import read_config
from meigm_jax.runs.wandb_sink import COMPLETE, FINISH_SECONDS, FOLLOW, WARNING

INIT_SECONDS = float(os.environ.get("WANDB_INIT_TIMEOUT", 30))  # to wait for the server, while training goes on
RECORD = "wandb.json"  # in the run directory: the ids of its wandb runs


class Target(NamedTuple):
    """A wandb run, the member that it is about (None: all of them), and the first env steps that it lacks."""

    run: Any
    member: int | None
    first: int


def main() -> int:
    """Send a finished run, or follow one until the input ends. What fails while following is told on standard output.

    Raises ConfigError where there is no finished run that goes to wandb.
    """
    parser = Parser("python -m meigm_jax.runs.wandb_sender", "Send wandb what it lacks of a run.")
    parser.add_argument("run", type=Path, metavar="RUN_DIRECTORY", help="a run that is complete")
    parser.add_argument("follow", nargs="?", choices=[FOLLOW], help=argparse.SUPPRESS)
    arguments = parser.read(None)
    run_dir = arguments.run
    if arguments.follow is None:
        if read_config(run_dir, "run").wandb.mode == "disabled":
            raise ConfigError(
                f"run: wandb.mode is disabled in {run_dir}/config.yaml; set it to online or offline there"
            )
        if not (run_dir / "summary.json").exists():
            raise ConfigError(f"run: {run_dir} is not complete; python -m meigm_jax.train resume={run_dir}")
    messages = os.dup(sys.stdout.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # wandb's own words
    os.environ["WANDB_SILENT"] = "true"  # and those on stderr

    def tell(text: str) -> None:
        with contextlib.suppress(OSError):  # who listened may be dead
            os.write(messages, f"{text}\n".encode())

    try:
        if arguments.follow:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they are for the trainer, which ends the
                signal.signal(number, signal.SIG_IGN)  # input; wandb's helper process inherits this
            send_run(run_dir, sys.stdin, tell, FINISH_SECONDS)
        else:
            send_run(run_dir, (str((run_dir / "metrics.jsonl").stat().st_size), COMPLETE), tell, None)
    except (Exception, SystemExit) as error:  # whatever wandb raises
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if not arguments.follow:
            print(f"error: {reason}", file=sys.stderr)
            return 1
        tell(f"{WARNING}wandb is off for the rest of this run: {reason}")
    return 0


def send_run(run_dir: Path, inputs: Iterable[str], tell: Callable[[str], None], seconds: float | None) -> None:
    """Send what the lines of `inputs` allow: numbers of bytes, and that the run is complete.

    seconds: how long ending the wandb runs may take before the process is ended.
    """
    import wandb

    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    targets: list[Target] = []
    complete = False
    with locked(run_dir), open(run_dir / "metrics.jsonl", "rb") as metrics:
        record = Record(run_dir, config["wandb"])
        try:
            together = config["wandb"]["runs"] == "together"
            for number, member in enumerate([None] if together else members(read_config(run_dir, "wandb"))):
                targets.append(_start(config, run_dir, record, number, member))
            if config["wandb"]["mode"] == "online":
                tell(f"wandb: {_where(targets)}")
            for line in map(str.strip, inputs):
                complete |= line == COMPLETE
                for rows in points(metrics.read(0 if line == COMPLETE else int(line) - metrics.tell())):
                    for target in targets:
                        send(target, rows)
                    record.sent = max(record.sent, rows[0]["env_steps"])
            if complete:
                summary = json.loads((run_dir / "summary.json").read_text())
                for target in targets:
                    send_summary(target, summary)
        finally:
            if seconds is not None:
                threading.Timer(seconds, os._exit, [1]).start()
            for target in targets:
                target.run.finish(exit_code=0 if complete else 1)
            wandb.teardown()
        record.save()
    if config["wandb"]["mode"] == "offline":
        tell(f"wandb: upload with `wandb sync {shlex.quote(str(run_dir))}/wandb/offline-run-*`")


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Waits for the sender of an earlier sitting, which may not have finished."""
    descriptor = os.open(run_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Record:
    """What wandb.json remembers of each place and way that the run is sent to: the id that it has there, and how far
    the folders go that were finished offline."""

    def __init__(self, run_dir: Path, settings: dict[str, Any]):
        self._place = "/".join((settings["mode"], settings["entity"] or "", settings["project"], settings["runs"]))
        self._folder = run_dir / "wandb"
        self._path = run_dir / RECORD
        self._all = json.loads(self._path.read_text()) if self._path.exists() else {}
        mine = self._all.get(self._place) or {"id": secrets.token_hex(4), "sent": -1, "folders": []}
        self.id, self.sent = mine["id"], mine["sent"]
        for path in self._folders():  # of a sitting that was killed: nobody knows how much of it can be read
            if path.name not in mine["folders"]:
                path.rename(path.with_name(path.name.replace("offline", "unfinished", 1)))
        self._write(mine)

    def save(self) -> None:
        """What was sent is in folders that are whole now."""
        self._write({"id": self.id, "sent": self.sent, "folders": sorted(path.name for path in self._folders())})

    def _folders(self) -> list[Path]:
        return [*self._folder.glob(f"offline-run-*-{self.id}"), *self._folder.glob(f"offline-run-*-{self.id}-seed*")]

    def _write(self, mine: dict[str, Any]) -> None:
        write_text(self._path, json.dumps(self._all | {self._place: mine}, indent=2) + "\n")


def points(lines: bytes) -> Iterator[list[Row]]:
    """The rows of each number of env steps."""
    for _, rows in groupby(map(json.loads, lines.splitlines()), lambda row: row["env_steps"]):
        yield list(rows)


def send(target: Target, rows: Sequence[Row]) -> None:
    """One point, unless the wandb run has it already."""
    env_steps = rows[0]["env_steps"]
    if env_steps >= target.first:
        mine = [row for row in rows if target.member in (None, row["member"])]
        target.run.log(point(mine, together=target.member is None), step=env_steps, commit=True)


def point(rows: Sequence[Row], together: bool) -> Row:
    """Rows of one number of env steps as one flat row: `eval_greedy/win_rate`, ... are means over the seeds.

    `together` adds every seed's own value, `seed0/eval_greedy/win_rate`, ... and keeps the points of a sweep apart by
    their values, `lr=0.01/eval_greedy/win_rate`, `lr=0.01/seed0/eval_greedy/win_rate`, ...
    """
    flat: Row = {"env_steps": rows[0]["env_steps"], "grad_steps": rows[0]["grad_steps"]}
    if together and len(groups := _by_point(rows)) > 1:
        for values, mine in groups:
            flat |= {key if key in flat else f"{values}/{key}": x for key, x in point(mine, together).items()}
        return flat
    for prefix in dict.fromkeys(map(_prefix, rows)):
        found = [row for row in rows if _prefix(row) == prefix]
        for key in metric_keys(found[0]):
            values = {row["seed"]: row.get(key) for row in found}
            if together:
                flat |= {f"seed{seed}/{prefix}/{key}": x for seed, x in values.items() if x is not None}
            known = [x for x in values.values() if x is not None]
            if len(known) == len(values):
                flat[f"{prefix}/{key}"] = sum(known) / len(known)
    return flat


def send_summary(target: Target, summary: dict[str, Any]) -> None:
    """Summary values, and the final evaluation as a table."""
    import wandb

    seeds = [each for each in summary["seeds"] if target.member in (None, each["member"])]
    target.run.summary.update(summary_values(summary, seeds))
    columns, data = evaluation_table(seeds)
    target.run.log({"env_steps": summary["env_steps"], "evaluation": wandb.Table(columns=columns, data=data)})


def evaluation_table(seeds: Sequence[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Columns and rows of the final evaluation, a row per member and policy, from the `seeds` of summary.json."""
    finals = [(each, policy, final) for each in seeds for policy, final in each["final"].items()]
    metrics = list(dict.fromkeys(key for *_, final in finals for key in final if key != "env_steps"))
    rows = [[*each["hyper"].values(), each["seed"], policy, *map(final.get, metrics)] for each, policy, final in finals]
    return [*seeds[0]["hyper"], "seed", "policy", *metrics], rows


def summary_values(summary: dict[str, Any], seeds: Sequence[dict[str, Any]]) -> Row:
    """What wandb shows of a run in one line: means over `seeds` of the final and best evaluations, and its cost."""
    values: Row = {
        key: summary[key] for key in ("env_steps_per_second", "compile_seconds", "wall_time", "peak_memory_bytes")
    }
    values["non_finite_seeds"] = sum(each["non_finite"] is not None for each in seeds)
    groups = _by_point(seeds)
    for hyper, mine in groups:
        means = _means(mine)
        values |= {f"{hyper}/{key}": x for key, x in means.items()} if len(groups) > 1 else means
    return values


def _means(seeds: Sequence[dict[str, Any]]) -> Row:
    values: Row = {}
    groups = {f"final_{policy}": [each["final"][policy] for each in seeds] for policy in seeds[0]["final"]}
    for name, found in (groups | {"best": [each["best"] for each in seeds]}).items():
        for key in metric_keys(found[0]):
            if all(each.get(key) is not None for each in found):
                values[f"{name}/{key}"] = sum(each[key] for each in found) / len(found)
    return values


def _by_point(entries: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows, or members of summary.json, of each point of the sweep, with its values in words."""
    groups: dict[str, list[Row]] = {}
    for entry in entries:
        groups.setdefault(_values(entry["hyper"]), []).append(entry)
    return list(groups.items())


def _values(hyper: dict[str, float]) -> str:
    return format_hyper(hyper).replace(" ", ",")


def _start(config: dict[str, Any], run_dir: Path, record: Record, number: int, member: Member | None) -> Target:
    import wandb

    settings = config["wandb"]
    label = f"{config['env']['name']}/{config['algo']['name']}/{config['name'] or run_dir.name}"
    group, name, identity = settings["group"], label, record.id
    if member is not None:
        group, name = group or label, "/".join(filter(None, (label, _values(member.hyper), f"seed{member.seed}")))
        identity += f"-seed{member.seed}" + (f"-member{number}" if member.hyper else "")
        hyper = config["hyper"] | member.hyper
        config = config | {"seed": member.seed, "seeds": 1, "hyper": hyper, "sweep": {}}
    run = wandb.init(
        project=settings["project"],
        entity=settings["entity"],
        group=group,
        mode=settings["mode"],
        dir=run_dir,
        name=name,
        config=config,
        id=identity,
        resume="allow",
        reinit="create_new",
        settings=wandb.Settings(init_timeout=INIT_SECONDS, silent=True, console="off"),
    )
    run.define_metric("*", step_metric="env_steps")
    first = record.sent + 1 if settings["mode"] == "offline" else run.step
    return Target(run, None if member is None else number, first)


def _where(targets: Sequence[Target]) -> str:
    run = targets[0].run
    return run.url if len(targets) == 1 else f"{len(targets)} runs in group {run.group}: {run.project_url}"


def _prefix(row: Row) -> str:
    return f"eval_{row['policy']}" if row["kind"] == "eval" else row["kind"]


if __name__ == "__main__":
    code = exit_code(main)
    sys.stderr.flush()
    os._exit(code)  # nothing that wandb still wants to wait for
