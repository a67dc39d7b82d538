"""The pair of examples/parity_golden.py with another epsilon on the Flax side."""

import dataclasses
from pathlib import Path

from parity.pairs.load import load

EXAMPLE = load(f"{Path(__file__).parents[3] / 'examples' / 'parity_golden.py'}:mlp")


def other_epsilon():
    module = EXAMPLE.flax()
    module.norm.epsilon = 1e-6
    return module


wrong_epsilon = dataclasses.replace(EXAMPLE, flax=other_epsilon)
