"""An animated GIF that stays below a size, whatever it shows: fewer colours first, then smaller pictures."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from meigm_jax.registry import ConfigError

MAX_BYTES = 1_000_000
FRAME_MS, LAST_FRAME_MS = 100, 2000  # about 10 frames per second; the end stays
COLOURS, SCALES = (32, 16, 8), (1.0, 0.75, 0.5, 0.35, 0.25)
CAPTION_HEIGHT = 14  # pixels, above each picture
SAMPLE = 32  # frames that the colours are chosen from


def check_path(path: Path) -> None:
    """Raise ConfigError unless a GIF can be written there."""
    if path.suffix.lower() != ".gif":
        raise ConfigError(f"gif: expected a file name that ends in .gif, got '{path}'")
    if path.is_dir():
        raise ConfigError(f"gif: '{path}' is a folder")
    if not path.parent.is_dir():
        raise ConfigError(f"gif: there is no folder '{path.parent}'")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"gif: cannot write in '{path.parent}': {error.strerror}") from error


def encode(pictures: Sequence[np.ndarray], captions: Sequence[str], max_bytes: int = MAX_BYTES) -> bytes:
    """Every picture, u8[height, width, 3], below its caption: at most `max_bytes`, or as small as it gets."""
    data = b""
    for scale in SCALES:
        frames = [_frame(picture, caption, scale) for picture, caption in zip(pictures, captions, strict=True)]
        for colours in COLOURS:
            data = _encode(frames, colours)
            if len(data) <= max_bytes:
                return data
    return data


def _frame(picture: np.ndarray, caption: str, scale: float) -> Image.Image:
    image = Image.fromarray(picture)
    if scale != 1.0:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    frame = Image.new("RGB", (image.width, image.height + CAPTION_HEIGHT), "white")
    frame.paste(image, (0, CAPTION_HEIGHT))
    draw = ImageDraw.Draw(frame)
    draw.fontmode = "1"  # no shades of grey: two colours
    draw.text((3, 1), caption, fill="black", font=ImageFont.load_default())
    return frame


def _encode(frames: list[Image.Image], colours: int) -> bytes:
    sample = frames[:: -(-len(frames) // SAMPLE)]
    strip = np.concatenate([np.asarray(frame) for frame in sample])
    # Maximum coverage keeps plain colours, white above all, as they are.
    palette = Image.fromarray(strip).quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [*[FRAME_MS] * len(rest), LAST_FRAME_MS]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)
    return buffer.getvalue()
