"""JaxMARL is imported by parts, and what else uses it in the same process notices nothing."""

from __future__ import annotations

import subprocess
import sys

from meigm_jax.envs.ids import registered
from meigm_jax.envs.quiet import quiet

with quiet():
    import jaxmarl

PARTS = """
import sys
from meigm_jax import envs
envs.make("smax_3m")
assert "jaxmarl.environments.smax.smax_env" in sys.modules
assert not {"jaxmarl.registration", "jaxmarl.environments.storm", "jaxmarl.environments.mpe"} & set(sys.modules)
"""
REST = """
import jaxmarl
from jaxmarl.environments import Hanabi, smax
from jaxmarl import make, registered_envs
assert make("switch_riddle").num_agents == 3 and "hanabi" in registered_envs
assert jaxmarl.environments.hanabi.Hanabi is Hanabi
assert jaxmarl.environments.smax is smax is sys.modules["jaxmarl.environments.smax"]
try:
    jaxmarl.nothing
except AttributeError as error:
    assert str(error) == "module 'jaxmarl' has no attribute 'nothing'"
else:
    raise AssertionError
print("done")
"""


def test_a_suite_imports_itself_alone_and_the_rest_comes_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", PARTS + REST], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_the_ids_that_are_read_are_those_that_jaxmarl_registers() -> None:
    assert list(registered()) == list(jaxmarl.registered_envs) != []
