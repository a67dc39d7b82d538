"""Takes neither framework's arrays."""


def function(q, k, v):
    del q, k, v
    raise TypeError("neither will do")
