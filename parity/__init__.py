"""Prove that two modules, one in torch and one in JAX, are the same function. The command is `parity`."""
