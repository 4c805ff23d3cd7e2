"""How each line of a figure looks: an algorithm has one colour, line style and marker in every figure and report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from meigm_jax.runs.curves import Line

# Colours that colour-blind eyes tell apart (Okabe and Ito, without the yellow, which paper swallows); line styles and
# markers for print. An algorithm's place in ORDER is its look: append, so that the others keep theirs.
COLOURS = ("#D55E00", "#0072B2", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.", (0, (6, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = "os^DvPX*<"
ORDER = (
    "me_qmix qmix me_qplex qplex me_vdn vdn cw_qmix ddn dmix entropy_qmix iql me_qatten me_qmix_fixed me_qmix_mlp "
    "me_qmix_two_layer ow_qmix qatten qmix_long_epsilon qtran soft_qmix soft_qmix_code"
).split()  # others follow by name


def looks(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Colour, line style and marker of each line; configurations of one algorithm have shades of its colour."""
    rank, chosen = ranks(lines), []
    for k, line in enumerate(lines):
        place = rank[line.algo]
        variant = sum(other.algo == line.algo for other in lines[:k])
        variants = sum(other.algo == line.algo for other in lines)
        mark = place + 11 * variant  # styles and markers together repeat after 5 x 9 lines
        colour = _shade(COLOURS[place % len(COLOURS)], variant, variants)
        dashes, marker = DASHES[mark % len(DASHES)], MARKERS[mark % len(MARKERS)]
        chosen.append({"color": colour, "linestyle": dashes, "marker": marker})
    return chosen


def ranks(lines: Sequence[Line]) -> dict[str, int]:
    """Algorithm -> its place: those of ORDER, then any others."""
    names = [*ORDER, *sorted(line.algo for line in lines)]
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _shade(colour: str, variant: int, variants: int) -> tuple[float, ...]:
    """From dark to light; the colour itself where there is only one variant."""
    rgb = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    toward_white = np.linspace(-0.5, 0.4, variants)[variant] if variants > 1 else 0.0
    return tuple(rgb * (1 - abs(toward_white)) + max(toward_white, 0.0))
