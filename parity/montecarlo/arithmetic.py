"""The rules of ops that round: elementwise ones, sums and contractions. `widths.py` says which op has which."""

from __future__ import annotations

import math
from typing import Any

import torch

from parity.montecarlo.noise import Noise, Rule, is_real, tensors
from parity.montecarlo.sums import accumulator, one_by_one

# float32's squares neither overflow nor vanish between these.
SQUARES = (1e-12, 1e15)


def argument(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    """An argument of an op by its name in the schema, or its default."""
    for place, parameter in enumerate(func._schema.arguments):
        if parameter.name == name:
            return args[place] if place < len(args) else kwargs.get(name, parameter.default_value)
    return None


def elementwise(factor: float = 1.0) -> Rule:
    """`factor` says how many units roundoff libraries differ by: 1 where results are correctly rounded or nearly so."""

    def rule(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*noise.uses(args), **noise.uses(kwargs))
        if not is_real(result):
            return result
        deviation = noise.rounded(result)
        return noise.put(result, deviation if factor == 1 else deviation.mul_(factor))

    return rule


def scaling(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """A product or quotient. By a power of two it is exact."""
    number = number_in_text(noise, args[1])
    if number and math.isfinite(number) and abs(math.frexp(number)[0]) == 0.5:
        result, deviation = func(*args, **kwargs), noise.deviations.of(args[0]) if is_real(args[0]) else None
        return noise.put(result, None if deviation is None else func(deviation, number).abs())
    if rounded_number(noise, number):
        return elementwise(math.sqrt(2))(noise, func, args, kwargs)
    return _representable(noise, elementwise()(noise, func, args, kwargs), args)


def _representable(noise: Noise, result: Any, args: Any) -> Any:
    """Correctly rounded ops of exact numbers do not round what the dtype has: products with a mask, whole numbers."""
    if is_real(result) and all(noise.deviations.of(tensor) is None for tensor in tensors(args, {})):
        return noise.put(result, noise.constants(result))
    return result


def number_in_text(noise: Noise, value: Any) -> float | None:
    """A number in the program's text, which torch may have wrapped in a tensor."""
    if isinstance(value, torch.Tensor) and value.ndim == 0 and is_real(value) and noise.deviations.of(value) is None:
        return float(value.abs()) if value.is_complex() else value.item()
    return value if isinstance(value, int | float) else None


def rounded_number(noise: Noise, number: Any) -> float:
    """The deviation of a number in the program's text: 0 if the dtype has it."""
    if not isinstance(number, int | float):
        return 0.0
    deviation = noise.constants(torch.tensor(float(number), dtype=torch.float64))
    return 0.0 if deviation is None else float(deviation)


def addition(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """A sum of two; `alpha` times the second is a product that is rounded too."""
    result = elementwise()(noise, func, args, kwargs)
    if not is_real(result) or not noise.rounding.unit:
        return result
    result = _representable(noise, result, args)
    alpha = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
    number = rounded_number(noise, number_in_text(noise, args[1]))
    if number:
        noise.put(result, torch.hypot(noise.rounded(result), torch.tensor(number * abs(alpha), device=result.device)))
    elif isinstance(alpha, float) and abs(math.frexp(alpha)[0]) != 0.5:
        term = func(torch.zeros_like(result), args[1], alpha=alpha)
        noise.put(result, torch.hypot(noise.rounded(result), noise.rounded(term)))
    return result


def linear(*places: int, terms: str = "") -> Rule:
    """Linear in each of some arguments (all tensors, if none is named), whose squares give the sum of squares.

    `terms="mean"`: the op divides by the number of its terms, which is what an input has more elements than the result.
    """

    def rule(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
        noisy, named = noise.uses(args), noise.uses(kwargs)
        results = func(*noisy, **named)
        if not noise.rounding.unit or _counted(noise, tensors((results,), {}), tensors(args, kwargs)):
            return results
        taking_part = [i for i in (places or range(len(noisy))) if i < len(noisy)]
        others = [value for i, value in enumerate(noisy) if i not in taking_part and is_real(value)]
        narrow = not others and all(_squarable(noisy[i]) for i in taking_part)
        squared = [_squared(value, narrow) if i in taking_part else value for i, value in enumerate(noisy)]
        named = {key: value**2 if key in ("alpha", "beta") else value for key, value in named.items()}
        squares = func(*squared, **named)
        both = zip(tensors((results,), {}), tensors((squares,), {}), strict=True)
        for number, (result, square) in enumerate(both):
            if is_real(result):
                if terms == "mean":
                    square = square / max(1, noisy[0].numel() / max(1, result.numel()))
                contracted = square.abs().sqrt().to(torch.float32).mul_(noise.rounding.unit)
                contracted.masked_fill_(~torch.isfinite(contracted), 0.0)
                own = torch.hypot(contracted, noise.rounded(result))
                one = one_by_one(result, square, *accumulator(noise, func, noisy, number))
                noise.put(result, torch.maximum(own, one))
        return results

    return rule


def _counted(noise: Noise, results: list[torch.Tensor], given: list[torch.Tensor]) -> bool:
    """Sums of whole numbers, as masks and lengths are counted, are exact while the dtype has them."""
    if any(noise.deviations.of(tensor) is not None for tensor in given):
        return False
    for tensor in (*results, *given):
        # Whole numbers are rare beyond masks and counts; the first few tell.
        if is_real(tensor) and not (_whole(tensor.flatten()[:8]) and _whole(tensor)):
            return False
    return all(noise.constants(result) is None for result in results)


def _whole(tensor: torch.Tensor) -> bool:
    return not tensor.is_complex() and bool((tensor == tensor.round()).all())


def _squarable(value: Any) -> bool:
    if not is_real(value) or not value.numel():
        return True
    largest = float(value.abs().amax())
    return largest == 0 or SQUARES[0] < largest < SQUARES[1]


def _squared(value: Any, narrow: bool) -> Any:
    """Squares, in float32 where they fit: a contraction of them costs half of the float64 one."""
    if isinstance(value, list | tuple):
        return type(value)(_squared(item, narrow) for item in value)
    if not is_real(value):
        return value
    value = value.abs()
    return (value.to(torch.float32) if narrow else value).square()


def product(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
    """prod, cumprod: a relative error of u for each factor."""
    factors = args[0].numel() if len(args) == 1 else args[0].shape[args[1]] if args[0].ndim else 1
    return elementwise(math.sqrt(max(1, factors)))(noise, func, args, kwargs)


def interpolation(backward: bool, slope: float = 1.0) -> Rule:
    """Linear, with weights that are differences of coordinates, which are off by u times the size of the axis.

    Not if every coordinate is a multiple of a power of two: sizes whose ratio is one, and no aligned corners. `slope`
    is how much steeper a weight is than linear, in its coordinate and in the terms that it is made of.
    """

    def rule(noise: Noise, func: Any, args: Any, kwargs: Any) -> Any:
        result = linear(0)(noise, func, args, kwargs)
        if not noise.rounding.unit:
            return result
        source, target = (result, args[0]) if backward else (args[0], result)
        sizes = list(zip(source.shape[2:], target.shape[2:], strict=True))
        if argument(func, args, kwargs, "align_corners") or any(math.frexp(a / b)[0] != 0.5 for a, b in sizes):
            coordinates = func(args[0].abs(), *args[1:], **kwargs) * (0.5 * slope * max(a for a, _ in sizes))
            own = noise.deviations.of(result)
            noise.put(result, noise.rounded(coordinates) if own is None else noise.rounded(coordinates).hypot(own))
        return result

    return rule
