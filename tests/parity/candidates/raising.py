"""Cannot be imported."""


def broken():
    raise RuntimeError("the weights file is missing")


broken()
