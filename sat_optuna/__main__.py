"""`python -m sat_optuna` is `sat-optuna`."""

import sys

from sat_optuna.cli import main

__all__: list[str] = []

sys.exit(main())
