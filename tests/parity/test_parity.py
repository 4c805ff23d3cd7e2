"""Our modules and losses against the authors' PyTorch code, in float64: outputs and gradients, to 1e-9."""

import os
from pathlib import Path

import jax
import pytest

from tests.parity import blocks, learners
from tests.parity import golden as files

pytestmark = pytest.mark.parity

FOLDER = Path(os.environ.get("MEIGM_GOLDEN_DIR") or Path(__file__).parents[1] / "golden")
FILES = sorted(FOLDER.glob("*.npz"))
if not FILES:
    raise FileNotFoundError(f"no *.npz in {FOLDER} (MEIGM_GOLDEN_DIR)")

CASES = {"qplex_loss": learners.qmix_loss, "me_qplex_loss_composed": learners.me_qmix_loss} | {
    check.__name__: check
    for check in (
        blocks.agent_gru,
        blocks.mixer_vdn,
        blocks.mixer_qmix,
        blocks.mixer_qplex,
        blocks.mixer_qatten,
        blocks.mixer_qtran,
        blocks.mixer_dmix,
        blocks.opt_affine,
        blocks.opt_two_layer,
        blocks.td_lambda,
        learners.qmix_loss,
        learners.me_qmix_loss,
        learners.soft_qmix_loss,
        learners.qtran_loss,
        learners.dmix_loss,
    )
}


def test_every_committed_file_has_its_case():
    committed = Path(__file__).parents[1] / "golden"
    names = {path.stem.split("__")[0] for path in committed.glob("*.npz")}
    assert {name for name in names if not name.endswith("_dead")} == CASES.keys()


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_golden_file(path):
    case, *variants = path.stem.split("__")
    unwanted = [v for v in variants if "truncpad" in v or v.endswith("_leak")]
    if unwanted or case.endswith("_dead"):
        pytest.skip("not required: the reference leaks or broadcasts here, we do not")
    if case not in CASES:
        pytest.skip(f"not implemented: {case}")
    with jax.enable_x64(True):
        CASES[case](files.read(path))
