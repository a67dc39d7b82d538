"""A pair file that cannot be imported."""

from parity import Pair

pair = Pair(torch=1 / 0, flax=None, inputs={})
