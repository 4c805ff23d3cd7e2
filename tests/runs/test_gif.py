"""The GIF writer: every frame, in its colours, below the size that was asked for."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meigm_jax.registry import ConfigError
from meigm_jax.runs import gif


def frames_of(data: bytes) -> tuple[list[np.ndarray], list[int]]:
    """Every frame as u8[height, width, 3], and how long it is shown, ms."""
    image = Image.open(io.BytesIO(data))
    frames, durations = [], []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        frames.append(np.asarray(image.convert("RGB")))
        durations.append(image.info["duration"])
    return frames, durations


def moving_square(steps: int) -> list[np.ndarray]:
    pictures = np.full((steps, 60, 90, 3), 255, np.uint8)
    for step, picture in enumerate(pictures):
        picture[20:30, step : step + 10] = (0, 0, 255)
        picture[40:45, 70:75] = (200, 30, 30)
    return list(pictures)


def test_pictures_come_back_as_they_were():
    pictures = moving_square(40)
    frames, durations = frames_of(gif.encode(pictures, [f"step {step}" for step in range(40)]))
    assert durations == [100] * 39 + [2000]
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.abs(frame[gif.CAPTION_HEIGHT :].astype(int) - picture).max() <= 8


def test_every_frame_has_its_own_caption_even_where_nothing_moves():
    pictures = [moving_square(1)[0]] * 5
    frames, _ = frames_of(gif.encode(pictures, ["step 0", "step 1", "step 2", "step 3", "won"]))
    bars = {frame[: gif.CAPTION_HEIGHT].tobytes() for frame in frames}
    assert len(frames) == len(bars) == 5
    assert all((frame[: gif.CAPTION_HEIGHT] < 50).any() for frame in frames)


@pytest.mark.parametrize("share", [0.6, 0.15])
def test_a_large_one_is_made_smaller_and_keeps_its_frames(share):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 96, 3), np.uint8)
    captions = [str(step) for step in range(20)]
    unlimited = gif.encode(list(noise), captions)
    data = gif.encode(list(noise), captions, max_bytes=int(share * len(unlimited)))
    assert len(data) <= share * len(unlimited)
    frames, _ = frames_of(data)
    assert len(frames) == 20
    assert (frames[0].shape[1] == 96) == (share == 0.6)  # fewer colours come first


def test_what_cannot_be_small_enough_is_as_small_as_it_gets():
    data = gif.encode(moving_square(3), ["0", "1", "2"], max_bytes=1)
    frames, _ = frames_of(data)
    assert len(frames) == 3 and frames[0].shape[1] == round(90 * gif.SCALES[-1])


def test_paths_that_cannot_be_written_are_named(tmp_path: Path):
    (tmp_path / "folder.gif").mkdir()
    for path, message in [
        (tmp_path / "a.png", "ends in .gif"),
        (tmp_path / "folder.gif", "is a folder"),
        (tmp_path / "nowhere" / "a.gif", "there is no folder"),
        (Path("/proc/a.gif"), "cannot write in '/proc'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            gif.check_path(path)
    gif.check_path(tmp_path / "a.GIF")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.gif"]
