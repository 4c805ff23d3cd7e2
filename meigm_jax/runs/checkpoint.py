"""Checkpoints: Orbax for what is learnt, append-only segments for the replay, a manifest that makes them count.

    checkpoints/<iteration>/state/          learner and keys (Orbax)
    checkpoints/<iteration>/manifest.json   written last: without it the folder is no checkpoint
    checkpoints/replay/<a>-<b>.safetensors  sequences a .. b - 1 of the run, in the order of their collection
    checkpoints/best/                       learner and keys of the best evaluation, of a sweep each point's own;
                                            a link, replaced in one step

A save writes only the sequences collected since the previous one, in pieces, so it needs no second copy of the replay.
What is on the disk knows nothing of devices: a restore places members as the freshly made state has them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import safetensors.numpy
from jax.sharding import SingleDeviceSharding

from meigm_jax.config import Config
from meigm_jax.registry import ConfigError
from meigm_jax.runs.files import write_bytes, write_text
from meigm_jax.runs.logger import to_json
from meigm_jax.runs.saved import MANIFEST
from meigm_jax.types import Array, Learner

PIECE_BYTES = 64 * 2**20  # of replay that pass through host memory at a time
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
Warn = Callable[[str], None]


class Segment(NamedTuple):
    """One file of sequences first .. last - 1 of the run."""

    file: str
    first: int
    last: int
    size: int  # bytes
    checksum: int  # CRC-32


class Corrupt(Exception):
    """What is on the disk is not what the manifest promises."""


class Best(NamedTuple):
    """What goes to `best/`."""

    learner: Learner
    iterations: np.ndarray  # i64[S]: at which each member's learner was as it is here
    replaced: np.ndarray  # bool[S]: not the one that was there before


class Checkpoints:
    """The folder `checkpoints/` of one run."""

    def __init__(self, folder: Path, config: Config):
        self.folder = folder.absolute()  # Orbax takes no relative paths
        self._keep = config.checkpoint.keep
        self._capacity = config.replay.capacity
        self._sequences = config.train.num_envs  # per iteration
        self._saved: list[int] = []  # iterations of the checkpoints that count, oldest first
        self._segments: list[Segment] = []  # what the newest of them needs
        self._manifest: dict[str, Any] = {}  # of the newest of them

    @property
    def newest(self) -> int:
        """Iteration of the newest checkpoint, 0 without one."""
        return self._saved[-1] if self._saved else 0

    def save(self, state: Any, iteration: int, host: dict[str, Any]) -> None:
        """Save a TrainState and the loop's own memory. Raises OSError, and leaves nothing of it, when that fails."""
        folder, written = self.folder / str(iteration), iteration * self._sequences
        needed = [s for s in self._segments if s.last > written - self._capacity]
        new = self._plan(max(self.newest * self._sequences, written - self._capacity), written, state.replay)
        try:
            _remove(folder)
            new = [self._write_segment(state.replay, first, last) for first, last in new]
            checksum = _write_tree(folder / "state", state.learner, state.key)
            manifest = {"iteration": iteration, "checksum": checksum, "segments": needed + new, "host": host}
            write_text(folder / MANIFEST, to_json(manifest))
        except Exception as error:
            _remove(folder)
            self._delete_unused_segments()
            raise _as_disk_error(error) from error
        self._segments, self._manifest = needed + new, manifest
        self._saved.append(iteration)
        self._prune()

    def amend(self, host: dict[str, Any]) -> None:
        """Replace the loop's own memory in the newest checkpoint. Raises OSError when that fails; the old one stays."""
        self._manifest = self._manifest | {"host": host}
        write_text(self.folder / str(self.newest) / MANIFEST, to_json(self._manifest))

    def best_with(self, state: Any, iteration: int, better: np.ndarray, warn: Warn) -> Best:
        """The learners of a TrainState that are `better`, bool[S], and for the other members those in `best/`.

        Where that is not there, or damaged, which `warn` is told, all of them are replaced.
        """
        everyone = Best(state.learner, np.full_like(better, iteration, int), np.ones_like(better))
        if better.all() or not (self.folder / "best").exists():
            return everyone
        try:
            return _merged(self.folder / "best", state, iteration, better)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            warn(f"the best checkpoint is not intact and starts anew: {_first_line(error)}")
            return everyone

    def save_best(self, best: Best, key: Array, facts: dict[str, Any]) -> None:
        """Replace `best/`, in one step. Raises OSError when that fails; the old one stays."""
        iteration = int(best.iterations.max())
        folder, link = self.folder / f"best-{iteration}", self.folder / "best"
        if link.resolve() == folder:  # a run that was killed has come here again
            folder = folder.with_name(f"{folder.name}-again")
        manifest = {"iteration": iteration, "iterations": best.iterations.tolist(), **facts}
        try:
            _remove(folder)
            checksum = _write_tree(folder / "state", best.learner, key)
            write_text(folder / MANIFEST, to_json({"checksum": checksum, **manifest}))
            link.with_suffix(".new").unlink(missing_ok=True)
            link.with_suffix(".new").symlink_to(folder.name)
            os.replace(link.with_suffix(".new"), link)
        except Exception as error:
            _remove(folder)
            raise _as_disk_error(error) from error
        for other in self.folder.glob("best-*"):
            if other != folder:
                _remove(other)

    def restore(self, state: Any, warn: Warn) -> tuple[Any, dict[str, Any]] | None:
        """The newest intact checkpoint as (TrainState, the loop's memory); None when no save was ever completed.

        `state` is a freshly made TrainState: it gives shapes and placement, and its replay is filled in place.
        A half-written or corrupt checkpoint is skipped with a warning. Raises ConfigError when all of them are corrupt.
        """
        found, complete = sorted(_iterations(self.folder), reverse=True), False
        for number, iteration in enumerate(found):
            complete |= (self.folder / str(iteration) / MANIFEST).is_file()
            try:
                manifest = read_manifest(self.folder / str(iteration))
                segments = [Segment(*each) for each in manifest["segments"]]
                self._verify(segments, iteration)
                learner, key = read_tree(self.folder / str(iteration), state)
                host = manifest["host"]
            except Exception as error:  # Orbax and TensorStore raise many kinds; all mean: not this one
                warn(f"checkpoint {iteration} is not intact and is skipped: {_first_line(error)}")
                continue
            self._segments, self._manifest = segments, manifest
            self._saved = [i for i in reversed(found[number:]) if self._readable(i)]
            replay = state.replay
            for segment in segments:
                replay = self._load_segment(replay, segment)
            return type(state)(learner, replay, key), host
        if complete:
            raise ConfigError(f"resume: no checkpoint in {self.folder} is intact")
        return None

    def _readable(self, iteration: int) -> bool:
        try:
            return "segments" in read_manifest(self.folder / str(iteration))
        except Corrupt:
            return False

    def _plan(self, first: int, last: int, replay: Any) -> Iterator[tuple[int, int]]:
        """Sequences first .. last - 1 in pieces that are small, and contiguous in the ring."""
        per_sequence = sum(x.nbytes for x in jax.tree.leaves(replay)) // self._capacity
        most = max(1, PIECE_BYTES // per_sequence)
        while first < last:
            end = min(last, first + most, (first // self._capacity + 1) * self._capacity)
            yield first, end
            first = end

    def _write_segment(self, replay: Any, first: int, last: int) -> Segment:
        piece = _take(replay, first % self._capacity, last - first)
        data = safetensors.numpy.save({name: _storable(np.asarray(x)) for name, x in _named(piece).items()})
        file = f"{first:012d}-{last:012d}.safetensors"
        write_bytes(self.folder / "replay" / file, data)
        return Segment(file, first, last, len(data), zlib.crc32(data))

    def _load_segment(self, replay: Any, segment: Segment) -> Any:
        data = safetensors.numpy.load_file(self.folder / "replay" / segment.file)
        ring, treedef = _named(replay), jax.tree.structure(replay)
        if data.keys() != ring.keys():
            raise ConfigError(
                f"resume: the replay in {self.folder} was stored by another version of meigm_jax; what was learnt can "
                "be evaluated, not trained on"
            )
        piece = treedef.unflatten([data[name].view(x.dtype) for name, x in ring.items()])
        piece = jax.device_put(piece, jax.tree.map(lambda x: x.sharding, replay))
        return _put(replay, piece, segment.first % self._capacity)

    def _verify(self, segments: list[Segment], iteration: int) -> None:
        """Raise Corrupt unless the segments are whole and hold every sequence that the replay held."""
        last = iteration * self._sequences
        expected = max(0, last - self._capacity)
        for segment in segments:
            path = self.folder / "replay" / segment.file
            if not path.is_file() or path.stat().st_size != segment.size:
                raise Corrupt(f"replay segment {segment.file} is missing or cut")
            if _file_checksum(path) != segment.checksum:
                raise Corrupt(f"replay segment {segment.file} has a wrong checksum")
            if segment.first > expected:
                break
            expected = segment.last
        if expected != last:
            raise Corrupt(f"the replay lacks sequences {expected} to {last}")

    def _prune(self) -> None:
        self._saved = self._saved[-self._keep :]
        for iteration in _iterations(self.folder):
            if iteration not in self._saved:
                _remove(self.folder / str(iteration))
        self._delete_unused_segments()

    def _delete_unused_segments(self) -> None:
        used = {segment.file for segment in self._segments}
        for iteration in filter(self._readable, self._saved[:-1]):
            used |= {each[0] for each in read_manifest(self.folder / str(iteration))["segments"]}
        for path in (self.folder / "replay").glob("*"):
            if path.name not in used:
                path.unlink()


def disk_bytes(config: Config, replay_bytes: int, learner: Any) -> int:
    """About what a run's checkpoints take on the disk at most; `learner` of all members may be shapes only.

    While one more is being saved, and where each of them has a whole replay of its own. The best has no replay.
    """
    return (replay_bytes + tree_bytes(learner)) * (config.checkpoint.keep + 1) + tree_bytes(learner)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays, which may be shapes only."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder. Raises Corrupt when it is missing or unreadable."""
    try:
        return json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise Corrupt("it was not finished (no readable manifest)") from error


def read_tree(folder: Path, like: Any) -> tuple[Learner, Array]:
    """Learner and keys of a checkpoint folder (also `best/`), shaped and placed as the TrainState `like`.

    `like` may be abstract (jax.eval_shape of the trainer's init): then all of it comes to one device. Raises Corrupt or
    whatever Orbax raises.
    """
    sharding = getattr(like.key, "sharding", None) or SingleDeviceSharding(jax.devices()[0])
    tree = {"learner": like.learner, "key": jax.eval_shape(jax.random.key_data, like.key)}
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            tree = checkpointer.restore(folder.resolve() / "state", abstract)
        except ValueError as error:
            if "tree structures do not match" not in str(error):
                raise
            raise Corrupt("another version of meigm_jax has saved it") from error
    if _tree_checksum(tree) != read_manifest(folder)["checksum"]:
        raise Corrupt("the learner has a wrong checksum")
    return tree["learner"], jax.random.wrap_key_data(tree["key"])


def with_its_optimizer(folder: Path, like: Any) -> Any:
    """The abstract TrainState `like` with the optimizer state that the folder has: versions differ in its structure.

    For those who only act, and have no use for it.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        metadata: Any = checkpointer.metadata(folder.resolve() / "state")
    saved = metadata.item_metadata.tree["learner"]["optimizer_state"]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved)
    return like._replace(learner=like.learner._replace(optimizer_state=shapes))


def read_iterations(folder: Path, members: int) -> list[int]:
    """The iteration at which each member's learner was saved. Raises Corrupt when the manifest can't be read."""
    manifest = read_manifest(folder)
    return manifest.get("iterations") or [int(manifest["iteration"])] * members


def _merged(best: Path, state: Any, iteration: int, better: np.ndarray) -> Best:
    """Learners of `state` where they are better, else those in `best`."""
    old, _ = read_tree(best, state)

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    iterations = np.where(better, iteration, read_iterations(best, len(better)))
    return Best(jax.tree.map(choose, state.learner, old), iterations, better)


def _write_tree(path: Path, learner: Learner, key: Array) -> int:
    tree = {"learner": learner, "key": jax.random.key_data(key)}
    path.parent.mkdir(parents=True, exist_ok=True)  # where that fails, Orbax would fail in threads of its own, loudly
    with ocp.StandardCheckpointer() as checkpointer:  # leaving waits: the next chunk donates these arrays
        checkpointer.save(path, tree)
    return _tree_checksum(tree)


def _tree_checksum(tree: Any) -> int:
    """By the names of the leaves: read back without its types, a tree has them in another order."""
    checksum = 0
    for _, leaf in sorted(_named(tree).items()):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8), checksum)
    return checksum


def _file_checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
    return checksum


@partial(jax.jit, static_argnums=2)
def _take(replay: Any, slot: Any, count: int) -> Any:
    return jax.tree.map(lambda ring: jax.lax.dynamic_slice_in_dim(ring, slot, count, axis=1), replay)


@partial(jax.jit, donate_argnums=0)
def _put(replay: Any, piece: Any, slot: Any) -> Any:
    return jax.tree.map(lambda ring, x: jax.lax.dynamic_update_slice_in_dim(ring, x, slot, axis=1), replay, piece)


def _named(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _storable(x: np.ndarray) -> np.ndarray:
    """The same bytes in a type that safetensors knows in NumPy (it lacks bfloat16 there)."""
    return x if x.dtype.isbuiltin == 1 else x.view(f"u{x.itemsize}")


def _iterations(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.glob("*") if path.name.isdigit()]


def _remove(folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)  # first: what is left of it must not count
    shutil.rmtree(folder, ignore_errors=True)


def _as_disk_error(error: Exception) -> Exception:
    """A disk that takes no more as OSError, also where TensorStore words it in an error of its own."""
    for number in DISK_ERRORS:
        if not isinstance(error, OSError) and os.strerror(number) in str(error):
            return OSError(number, os.strerror(number))
    return error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
