"""The ways to compute attention. One contract for all:

refusal(problem) -> str | None      why this one cannot do the problem, or None
run(problem, operands) -> Result    the answer, by the rules S1 to S17

None imports another. `attend_jax.dispatch` holds the table of them.
"""
