"""train.precision: what matrix products are asked for. A GPU keeps to it, a CPU computes in float32."""

import jax
import jax.numpy as jnp
import pytest

from meigm_jax.hyper import Hyper
from meigm_jax.runs.trainer import make_algorithm
from meigm_jax.train import configure
from tests.algos.variants import SPEC, random_batch

ASKED = {
    None: "precision = [DEFAULT, DEFAULT] :",
    "float32": "precision = [HIGHEST, HIGHEST] :",
    "bfloat16": "algorithm = <lhs_precision_type = bf16, rhs_precision_type = bf16, accumulation_type = f32,",
}


@pytest.mark.parametrize("precision", ASKED)
def test_every_product_of_a_gradient_step_is_asked_for_at_this_precision(precision):
    told = [] if precision is None else [f"train.precision={precision}"]
    config = configure("+env=smax_3m", "algo.agent.name=gru", "algo.agent.hidden_dim=8", *told)
    algorithm = make_algorithm(config, SPEC._replace(unit_dim=2))
    learner = algorithm.init(jax.random.key(0), Hyper(**{key: jnp.float32(x) for key, x in config.hyper.items()}))
    program = jax.jit(algorithm.update).lower(learner, jax.random.key(1), random_batch(), jnp.int32(0)).as_text()
    products = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 10 and all(ASKED[precision] in line for line in products)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(learner.params)}
    assert dtypes == {jnp.dtype("float32")}
