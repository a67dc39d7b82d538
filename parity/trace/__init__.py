"""Where does a port start to differ: every submodule of a pair, in the whole model and alone.

    torch_side, flax_side   watch every call of a submodule; run submodules alone, on the reference's inputs
    worker, messages        a process a side, and what travels
    align    which call of torch's is which of Flax's          layout   the same numbers in another order of axes
    judge    arrays -> verdicts of a row                       blame    rows -> which of them is wrong by itself
    cause    attributes and numbers -> a likely cause          session  the only file that knows the order
    results, terminal, json                                    what was found, printed and written

`docs/trace.md` says what the words mean.
"""
