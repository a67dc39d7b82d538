"""The rules of ops that round nothing: numbers move, are chosen, are decided upon. `widths.py` says which has which."""

from __future__ import annotations

from typing import Any

import torch

from parity.montecarlo.arithmetic import argument, linear, rounded_number, scaling
from parity.montecarlo.noise import Noise, Rule, is_real, tensors

# A positive number that is nothing beside any other.
SMALL = 2.0**-1000


def moves(*constants: int) -> Rule:
    """Numbers go elsewhere or stay, unchanged: their deviations go there by the same op. `constants` are the places of
    numbers that the op writes between them, which are exact."""

    def rule(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
        if "reduce" in func._overloadname:
            return noise.without_rule(func, func._schema.name, args, kwargs)
        result = func(*args, **kwargs)
        outputs = [output for output in tensors((result,), {}) if is_real(output)]
        given = [tensor for tensor in tensors(args, kwargs) if is_real(tensor)]
        numbers = {i: rounded_number(noise, args[i]) for i in constants if i < len(args)}
        if not any(numbers.values()) and not any(noise.deviations.of(tensor) is not None for tensor in given):
            return noise.put(result, None) if isinstance(result, torch.Tensor) else result
        carried = [
            numbers[i] if i in constants and not isinstance(value, torch.Tensor) else _deviations(noise, value)
            for i, value in enumerate(args)
        ]
        named = {key: _deviations(noise, value) for key, value in kwargs.items()}
        named |= {"dtype": torch.float32} if isinstance(named.get("dtype"), torch.dtype) else {}
        deviations = func(*carried, **named)
        for output, deviation in zip(outputs, tensors((deviations,), {}), strict=True):
            noise.put(output, deviation.abs() if not deviation.is_complex() else deviation.clone())
        return result

    return rule


def _deviations(noise: Noise, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_deviations(noise, item) for item in value)
    if not is_real(value):
        return value
    deviation = noise.deviations.of(value)
    return (
        torch.zeros((), dtype=torch.float32, device=value.device).expand(value.shape)
        if deviation is None
        else deviation
    )


def same(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """Another sign at most: the deviation stays where it is."""
    result, deviation = func(*args, **kwargs), noise.deviations.of(args[0]) if is_real(args[0]) else None
    return noise.put(result, None if deviation is None else deviation.clone())


def cast(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """To another dtype: numbers keep their deviation, and what becomes an integer was decided."""
    dtype = kwargs.get("dtype")
    if is_real(args[0]) and dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        return discrete(noise, func, args, kwargs)
    return same(noise, func, args, kwargs)


def written(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """copy_: a move that may broadcast, and may change the dtype."""
    target, source = args[0], args[1]  # fill_'s is a number, or a tensor with one
    if is_real(source) and not is_real(target):
        return noise.decide("copy_", func(target, noise.use(source)))
    func(*args, **kwargs)
    if isinstance(source, torch.Tensor):
        noise.put(target, noise.deviations.of(source) if is_real(source) else None)
    else:
        noise.put(target, noise.constants(target))
    return target


def chooses(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """maximum, clamp, relu …: each element of the result is one of the inputs', and has its deviation."""
    result = func(*args, **kwargs)
    number = max((rounded_number(noise, value) for value in (*args, *kwargs.values())), default=0.0)
    deviation = torch.tensor(number, dtype=torch.float32, device=result.device) if number else None
    for tensor in tensors(args, kwargs):
        if is_real(tensor) and is_real(result) and (its := noise.deviations.of(tensor)) is not None:
            other = 0.0 if deviation is None else deviation
            deviation = torch.where(result == tensor, its, other).to(torch.float32)
        elif is_real(tensor) and deviation is not None:
            deviation = torch.where(result == tensor, 0.0, deviation)
    return noise.put(result, deviation) if is_real(result) else result


def relu(noise: Noise, _func: Any, args: Any, _kwargs: Any) -> Any:
    """A choice whose backward pass asks the result's sign again, and has to get the answer that was given here."""
    (x,) = args
    passes = noise.doubted(x) > 0
    noise.decide("relu", passes)
    result = torch.where(passes, x.clamp_min(SMALL), 0.0)
    deviation = noise.deviations.of(x)
    return noise.put(result, None if deviation is None else torch.where(passes, deviation, 0.0))


def extreme(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """amax and amin, without indices: the deviation of the largest number."""
    if len(args) > 1 and isinstance(args[1], torch.Tensor):
        return chooses(noise, func, args, kwargs)
    if func._overloadname == "dim":
        return picks(noise, func, args, kwargs)
    result, deviation = func(*args, **kwargs), noise.deviations.of(args[0]) if is_real(args[0]) else None
    if deviation is None:
        return result
    axes = argument(func, args, kwargs, "dim")
    axes = list(range(args[0].ndim)) if axes in (None, []) else [axes] if isinstance(axes, int) else axes
    wide = torch.amax(args[0], axes, True) if "max" in func._schema.name else torch.amin(args[0], axes, True)
    return noise.put(result, torch.where(args[0] == wide, deviation, 0).amax(axes).reshape(result.shape))


def picks(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """sort, topk, max along an axis …: noise decides which numbers, recorded as indices, and each keeps its own."""
    values, indices = func(*noise.doubted(args), **kwargs)
    name = func._schema.name.partition("::")[2]
    noise.decide(name, indices)
    source, deviation = args[0], noise.deviations.of(args[0]) if is_real(args[0]) else None
    if source.ndim == 0 or deviation is None:
        return noise.put(values, deviation), indices
    if "pool" in name:  # indices into the flattened places of a channel
        rank = values.ndim - (1 if "1d" in name else 3 if "3d" in name else 2)
        places = indices.flatten(rank)
        values = source.flatten(rank).gather(rank, places).view_as(indices)
        return noise.put(values, deviation.flatten(rank).gather(rank, places).view_as(indices)), indices
    axis = argument(func, args, kwargs, "dim")
    places = indices if indices.ndim == source.ndim else indices.unsqueeze(axis)
    noise.put(values.copy_(source.gather(axis, places).view_as(values)), deviation.gather(axis, places).view_as(values))
    return values, indices


def gathered_or_moved(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """index_put: with `accumulate` a sum."""
    if func._schema.name == "aten::_index_put_impl_":
        value = gathered_or_moved(noise, torch.ops.aten.index_put.default, args[:4], kwargs)
        return written(noise, torch.ops.aten.copy_.default, (args[0], value), {})
    accumulates = argument(func, args, kwargs, "accumulate")
    return (linear(0, 2) if accumulates else moves())(noise, func, args, kwargs)


def discrete(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """Integers or booleans from numbers with noise."""
    result = func(*noise.doubted(args), **kwargs)
    if any(is_real(tensor) for tensor in tensors(args, kwargs)):
        noise.decide(func._schema.name.partition("::")[2], torch.as_tensor(result))
    return result


def comparison(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """Of a number with itself (a threshold that was picked from the tensor, a maximum) there is nothing to flip."""
    plain = func(*args, **kwargs)
    if not any(is_real(tensor) for tensor in args):
        return plain
    result = torch.where(args[0] == args[1], plain, func(*noise.doubted(args), **kwargs))
    return noise.decide(func._schema.name.partition("::")[2], result)


def equality(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """Equal numbers are copies of one: noise of their own would tell them apart."""
    result = func(*args, **kwargs)
    return noise.decide(func._schema.name.partition("::")[2], result) if is_real(args[0]) else result


def divided(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """A quotient, which with a rounding mode is a step."""
    return (step if kwargs.get("rounding_mode") else scaling)(noise, func, args, kwargs)


def read(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """A number that leaves for Python: what is done with it there has no further rounding of its own."""
    return func(*noise.uses(args), **kwargs)


def constant(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """A tensor of numbers that stand in the program."""
    result = func(*args, **kwargs)
    return noise.put(result, noise.constants(result))


def step(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """round, floor, sign …: exact, but rounding may send it to the next step."""
    result = func(*noise.doubted(args), **kwargs)
    return noise.put(noise.decide(func._schema.name.partition("::")[2], result), None)


def exact(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """Nothing is rounded, and what was there is forgotten."""
    result = func(*args, **kwargs)
    return noise.put(result, None) if isinstance(result, torch.Tensor) else result


def alias(_noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """The same memory, though the schema does not say so."""
    return func(*args, **kwargs)


def dropped(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """native_dropout: which are kept comes from the module's own generator, undisturbed."""
    _, kept = func(*args, **kwargs)
    rate, train = argument(func, args, kwargs, "p"), argument(func, args, kwargs, "train")
    if train is False:
        return same(noise, torch.ops.aten.clone.default, args[:1], {}), kept
    with noise:
        return args[0] * kept * (1 / (1 - rate) if rate < 1 else 0.0), kept
