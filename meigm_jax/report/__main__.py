"""`python -m meigm_jax.report`."""

import sys

from meigm_jax.report import main

if __name__ == "__main__":
    sys.exit(main())
