"""Pairs of modules that a user brings: one in torch, one in Flax, and what to feed both.

pair    what the user writes            load    from a SPEC or a folder to pairs
cases   a pair -> cases                 nested  any structure of outputs -> named arrays, and back
worker  a process a side                torch_side, flax_side   the frameworks' own part
session how the pipeline runs and judges them
audit   what of their settings differs: audit_torch, audit_flax look, audit_run asks and prints
"""
