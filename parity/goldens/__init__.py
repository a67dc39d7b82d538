"""Goldens: a reference's results in one file, to be judged against where the reference's framework is not installed.

golden  what is recorded, as frozen data      plain   dataclasses as JSON, and back
file    a golden as a safetensors file        record  run the reference alone
replay  sides and plans that answer from it   compare two files of named tensors
"""
