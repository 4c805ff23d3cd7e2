"""The training command with the trainer in miniature: `python -m tests.fake_train SECONDS [argument ...]`.

A chunk takes SECONDS. Without `resume=` the small sizes of the trainer in miniature come before the arguments.
"""

import sys
from functools import partial

from meigm_jax import train
from meigm_jax.runs import loop
from tests.runs import fake

SIZES = [argument for argument in fake.SMALL if not argument.startswith(("+env=", "algo="))]


def install(seconds: float) -> None:
    """Put the trainer in miniature in the place of the real one."""
    loop.check = lambda config, resume=None, memory=True: None  # it would build the real environment
    loop.run = partial(loop.run, trainer_factory=fake.make_slow_trainer(seconds))


def main() -> int:
    seconds, *arguments = sys.argv[1:]
    install(float(seconds))
    train.leave_on_signals()
    resumed = any(argument.startswith("resume=") for argument in arguments)
    return train.main(arguments if resumed else [*SIZES, *arguments])


if __name__ == "__main__":
    sys.exit(main())
