"""A torch port that is right until its last axis says otherwise: what a worker has to live through."""

import os
import time

import torch
from third_party import Attend as Right


def die(output):
    del output
    os._exit(7)


def sleep(output):
    time.sleep(60)
    return output


def fail(output):
    del output
    raise ValueError("I do not like this one")


def leave(output):
    del output
    raise SystemExit(5)


# size of value's features -> what becomes of the output
BEHAVIOUR = {
    1: die,
    2: sleep,
    3: fail,
    5: lambda output: output[..., :-1],
    6: lambda output: output.double(),
    7: lambda output: None,
    9: lambda output: output.detach().numpy(),
    10: lambda output: output + torch.rand_like(output),
    11: lambda output: output.detach(),
    13: lambda output: output * torch.nan,
    14: leave,
}


class Attend(Right):
    def forward(self, q, k, v, bias=None):
        return BEHAVIOUR.get(v.shape[-1], lambda output: output)(super().forward(q, k, v, bias))


class Dying(Right):
    """Dies of a bias."""

    def forward(self, q, k, v, bias=None):
        return super().forward(q, k, v) if bias is None else die(q)


class Sleeping(Right):
    """Sleeps over a bias."""

    def forward(self, q, k, v, bias=None):
        return super().forward(q, k, v) if bias is None else sleep(q)
