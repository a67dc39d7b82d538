"""From two descriptions to a map that accounts for everything on both sides, or to an error that says what does not."""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterable, Sequence

from parity.weights import kinds, names, rules
from parity.weights.layers import Layer, Tensor, WeightsError
from parity.weights.map import Entry, WeightMap
from parity.weights.match import ALONE, Matching, Pair, exchanged, match
from parity.weights.rules import Rule

_SHOWN = 3  # candidates named for each thing that has no partner


@dataclasses.dataclass(frozen=True)
class Problem:
    """`kind` is "left over" (no partner for what torch has), "missing" (none for what Flax has), "wrong shape",
    "ambiguous", "crossing" or "rule"."""

    kind: str
    path: str
    message: str


class PlanError(WeightsError):
    """Two modules whose weights do not correspond, or not in one way only: all problems at once."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        several = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(f"- {problem.kind}: {problem.message}" for problem in problems)
        super().__init__(f"the weights of the two modules do not correspond, {several}:\n{lines}")


def plan(torch: Sequence[Layer], flax: Sequence[Layer], given: rules.Rules = ()) -> WeightMap:
    """The map between two modules, each described by its side.

    Rules come first; the rest is paired by kind, shape and name. Raises `PlanError`.

    >>> linear = Layer("fc", "linear", {"weight": Tensor("fc.weight", (7, 5), "float32")})
    >>> dense = Layer("head", "linear", {"kernel": Tensor("head.kernel", (5, 7), "float32")})
    >>> [(entry.torch[0].path, entry.flax[0].path, entry.transform) for entry in plan([linear], [dense]).entries]
    [('fc.weight', 'head.kernel', 'linear')]
    """
    ruled = _Ruled(tuple(torch), tuple(flax))
    for rule in rules.read(given):
        ruled.apply(rule)
    if ruled.problems:  # the rest would only repeat that what they were about has no partner
        raise PlanError(ruled.problems)
    rest = [layer for side in (ruled.torch, ruled.flax) for layer in side]
    buffers = {id(layer) for layer in rest if layer.kind == "buffer" and layer.optional}
    left, right = ([layer for layer in side if id(layer) not in buffers] for side in (ruled.torch, ruled.flax))
    matching = match(left, right)
    if any(map(_half_tied, matching.torch)) or any(map(_half_tied, matching.flax)):
        left, right = ([*_loosened(side, stuck)] for side, stuck in (
            (left, matching.torch), (right, matching.flax),
        ))  # fmt: skip
        matching = match(left, right)
    entries: list[Entry] = list(ruled.entries)
    problems: list[Problem] = []
    for pair in matching.pairs:
        ways = kinds.steps(pair.torch, pair.flax)
        if len(ways) > 1 or kinds.square(pair.torch):
            problems.append(_two_ways(pair, ways))
        else:
            entries += [Entry(step.torch, step.flax, step.transform, pair.why) for step in ways[0]]
    problems += _crossing(matching.pairs)
    problems += _unpaired(matching, left, right)
    ignored = [layer for layer in ruled.torch if id(layer) in buffers] + [x for x in matching.torch if x.optional]
    entries += [Entry((t,), (), "ignored", x.optional) for x in ignored for t in x.tensors.values()]
    ignored = [layer for layer in ruled.flax if id(layer) in buffers] + [x for x in matching.flax if x.optional]
    entries += [Entry((), (t,), "ignored", x.optional) for x in ignored for t in x.tensors.values()]
    if not problems:
        problems += _accounts(torch, [t for entry in entries for t in entry.torch])
        problems += _accounts(flax, [t for entry in entries for t in entry.flax])
    if problems:
        raise PlanError(problems)
    order = {tensor.path: place for place, tensor in enumerate(_tensors(torch))}
    return WeightMap(tuple(sorted(entries, key=lambda e: order[e.torch[0].path] if e.torch else len(order))))


def _tensors(layers: Iterable[Layer]) -> list[Tensor]:
    return [tensor for layer in layers for tensor in layer.tensors.values()]


def _two_ways(pair: Pair, ways: tuple[tuple[kinds.Step, ...], ...]) -> Problem:
    left, right = next(iter(pair.torch.tensors.values())), next(iter(pair.flax.tensors.values()))
    several = sorted({step.transform for way in ways for step in way if step.torch[0].path == left.path})
    choice = " or ".join(several) if len(several) > 1 else "identity or transpose"
    return Problem(
        "ambiguous", left.path,
        f"`{left.shown}` {left.size} goes to `{right.shown}` {right.size}, but {choice}? Their layers' kinds do not "
        f'tell and the shape fits both. Add a rule: ("{left.shown}", "{right.shown}", "{several[0]}")',
    )  # fmt: skip


def _half_tied(layer: Layer) -> bool:
    return not layer.optional and len(layer.tensors) > 1 and any(tensor.names for tensor in layer.tensors.values())


def _loosened(layers: Sequence[Layer], stuck: Sequence[Layer]) -> Iterable[Layer]:
    """A layer without a partner whose weight is another's too (a decoder tied to its embedding, with a bias of its
    own): what is tied is accounted for there, the rest goes as parameters."""
    uses = Counter(tensor.path for tensor in _tensors(layers))
    for layer in layers:
        if layer in stuck and _half_tied(layer):
            own = {role: tensor for role, tensor in layer.tensors.items() if uses[tensor.path] == 1}
            yield from _apart(dataclasses.replace(layer, tensors=own))
        else:
            yield layer


def _apart(layer: Layer) -> Iterable[Layer]:
    """Each tensor of a layer on its own."""
    for role, tensor in layer.tensors.items():
        kind = "buffer" if role in ("mean", "var") or layer.kind == "buffer" else "parameter"
        yield Layer(tensor.path, kind, {"value": tensor}, optional=layer.optional)


def _crossing(pairs: Sequence[Pair]) -> Iterable[Problem]:
    """Pairs that the structure contradicts."""
    crossed = names.crossing([(pair.torch.path, pair.flax.path, pair) for pair in pairs])
    if crossed is not None and all(pair.why == ALONE for pair in crossed):  # shapes leave no other
        crossed = None
    for found, words in (
        (crossed, "their numbers run against each other"),
        (exchanged(pairs), "modules that otherwise belong together give up one for the other"),
    ):
        if found is not None:
            one, other = found
            yield Problem(
                "crossing", one.torch.path,
                f"names and shapes pair `{one.torch.path}` with `{one.flax.path}` and `{other.torch.path}` with "
                f"`{other.flax.path}`, so that {words}. If that is meant, say so with rules: "
                f'{{"{one.torch.path}": "{one.flax.path}", "{other.torch.path}": "{other.flax.path}"}}',
            )  # fmt: skip


def _unpaired(matching: Matching, torch: Sequence[Layer], flax: Sequence[Layer]) -> Iterable[Problem]:
    told: set[int] = set()
    for left, right in matching.undecided:
        told |= {id(layer) for layer in (*left, *right)}
        yield _ambiguous(left, right)
    rest_torch = [layer for layer in matching.torch if id(layer) not in told and not layer.optional]
    rest_flax = [layer for layer in matching.flax if id(layer) not in told and not layer.optional]
    for layer in list(rest_torch):
        other = _namesake(layer, rest_flax)
        if other is not None:
            rest_torch.remove(layer)
            rest_flax.remove(other)
            yield _wrong_shape(layer, other)
    for kind, side, rest, others, free in (
        ("left over", "torch", rest_torch, flax, {id(layer) for layer in matching.flax}),
        ("missing", "Flax", rest_flax, torch, {id(layer) for layer in matching.torch}),
    ):
        for layer in rest:
            theirs = "Flax" if side == "torch" else "torch"
            yield Problem(
                kind, layer.path,
                f"{layer.shown} of {side} has no partner in {theirs}. "
                f"{_candidates(layer, others, free)} Add one there, or a rule that names its partner, or "
                f"{_ignoring(layer, side)} as a rule to leave it alone",
            )  # fmt: skip


def _ignoring(layer: Layer, side: str) -> str:
    return f'("{layer.path}", None)' if side == "torch" else f'(None, "{layer.path}")'


def _ambiguous(left: Sequence[Layer], right: Sequence[Layer]) -> Problem:
    rows = (", ".join(layer.where for layer in side[:8]) + (" …" if len(side) > 8 else "") for side in (left, right))
    first, second = rows
    uneven = "" if len(left) == len(right) else "One side has more, so one is to be added or left alone. "
    return Problem(
        "ambiguous", left[0].path,
        f"{len(left)} layers of torch and {len(right)} of Flax have shapes that fit one another, and names that do not "
        f"tell which is which: {first} and {second}; the first is {left[0].shown}. {uneven}Add rules, such as "
        f'{{"{left[0].path}": "{right[0].path}"}} if that is so',
    )  # fmt: skip


def _namesake(layer: Layer, others: Sequence[Layer]) -> Layer | None:
    """The unpaired layer on the other side that this one most likely is, with shapes that do not fit."""
    alike = [other for other in others if any(
        row.torch == layer.kind and other.kind in row.flax for row in kinds.TABLE
    )]  # fmt: skip
    best = difflib.get_close_matches(layer.path, [other.path for other in alike], 1, cutoff=0.0)
    if not best:
        return None
    other = next(other for other in alike if other.path == best[0])
    score = names.alike([[layer.path], ["?"]], [[other.path], ["?"]])(0, 0)
    return other if len(alike) == 1 or score or best[0] == layer.path else None


def _wrong_shape(layer: Layer, other: Layer) -> Problem:
    differs = [f"options {dict(layer.options)} and {dict(other.options)}"] if (
        layer.options.keys() & other.options.keys() and dict(layer.options) != dict(other.options)
    ) else []  # fmt: skip
    return Problem(
        "wrong shape", layer.path,
        f"{layer.shown} of torch cannot become {other.shown} of Flax"
        + "".join(f"; {words}" for words in differs)
        + ". Build one like the other, or add a rule if these two do not belong together",
    )  # fmt: skip


def _candidates(layer: Layer, others: Sequence[Layer], free: set[int]) -> str:
    """The nearest by name on the other side, those without a partner first."""
    near = sorted(
        others,
        key=lambda other: (
            id(other) not in free, other.kind != layer.kind,
            -difflib.SequenceMatcher(None, layer.path, other.path).ratio(),
        ),
    )  # fmt: skip
    words = [f"{other.shown}{'' if id(other) in free else ', which has a partner'}" for other in near[:_SHOWN]]
    return f"Nearest: {'; '.join(words)}." if words else "There is nothing at all."


def _accounts(layers: Sequence[Layer], used: Sequence[Tensor]) -> Iterable[Problem]:
    """Every tensor once: whole, or in parts that make it whole. One that is tied may be used by several layers."""
    for path, tensor in {tensor.path: tensor for tensor in _tensors(layers)}.items():
        parts = [other.part for other in used if other.path == path]
        if None in parts and (len(parts) == 1 or tensor.names):
            continue
        counts = {part.count for part in parts if part is not None}
        indices = sorted(part.index for part in parts if part is not None)
        if not counts or indices != list(range(max(counts))) or len(counts) > 1 or None in parts:
            words = ", ".join(other.shown for other in used if other.path == path) or "nothing"
            yield Problem(
                "rule", path, f"`{path}` {tensor.shape}: expected it to be used once, whole or in parts that make it "
                f"whole, but the map has {words}",
            )  # fmt: skip


class _Ruled:
    """What rules have settled, and the layers that they left."""

    def __init__(self, torch: tuple[Layer, ...], flax: tuple[Layer, ...]):
        self.torch, self.flax = list(torch), list(flax)
        self._all = torch, flax
        self.entries: list[Entry] = []
        self.problems: list[Problem] = []

    def apply(self, rule: Rule) -> None:
        try:
            if not (self._layers(rule) or self._single(rule)):
                self.problems.append(self._unmatched(rule))
        except WeightsError as error:
            self.problems.append(Problem("rule", rule.torch or rule.flax or "", str(error)))

    def _layers(self, rule: Rule) -> bool:
        """Apply a rule that names layers."""
        if rule.torch is None or rule.flax is None or rule.transform:
            return False
        flax = {path: layer for layer in self._all[1] for path in (layer.path, *layer.names)}
        found = False
        for layer in self._all[0]:
            for path in (layer.path, *layer.names):
                partner = rule.partner(path)
                if partner is None or layer.kind in ("parameter", "buffer"):
                    continue
                if partner not in flax:
                    raise WeightsError(f"{rule.shown}: {_none('Flax layer', partner, flax)}, for `{path}` of torch")
                found = True
                left, right = rules.cut(layer, rule.torch, 0), rules.cut(flax[partner], rule.flax, -1)
                assert isinstance(left, Layer)
                assert isinstance(right, Layer)
                ways = kinds.steps(left, right)
                if len(ways) != 1:
                    raise WeightsError(
                        f"{rule.shown}: {left.shown} {'could become' if ways else 'cannot become'} "
                        f"{right.shown}{' in two ways' if ways else ''}: write a rule for each "
                        "tensor, with its transform"
                    )
                self.entries += [Entry(step.torch, step.flax, step.transform, rule.shown) for step in ways[0]]
                self._take(self.torch, left.tensors.values())
                self._take(self.flax, right.tensors.values())
                break
        return found

    def _single(self, rule: Rule) -> bool:
        """Apply a rule that names tensors; one with a side left out may name layers too."""
        sides = [
            {
                path: (layer, role) for layer in layers for role, tensor in layer.tensors.items()
                for path in (tensor.path, *tensor.names)
            }
            for layers in self._all
        ]  # fmt: skip
        if rule.torch is None or rule.flax is None:
            return self._one_sided(rule)
        found = False
        for path, place in sides[0].items():
            partner = rule.partner(path)
            if partner is None:
                continue
            if partner not in sides[1]:
                raise WeightsError(f"{rule.shown}: {_none('Flax tensor', partner, sides[1])}, for `{path}` of torch")
            found = True
            step = rules.step(rule, place, sides[1][partner])
            entry = Entry(step.torch, step.flax, step.transform, rule.shown)
            if entry in self.entries:  # the same tensor by another of its names
                continue
            self.entries.append(entry)
            self._take(self.torch, step.torch)
            self._take(self.flax, step.flax)
        return found

    def _one_sided(self, rule: Rule) -> bool:
        torch = rule.torch is not None
        layers, rest = (self._all[0], self.torch) if torch else (self._all[1], self.flax)
        glob = rules.pattern(rule.torch or rule.flax or "")
        found = [
            tensor for layer in layers for tensor in layer.tensors.values()
            if glob.fullmatch(layer.path) or any(glob.fullmatch(path) for path in (tensor.path, *tensor.names))
        ]  # fmt: skip
        for tensor in found:
            left, right = ((tensor,), ()) if torch else ((), (tensor,))
            self.entries.append(Entry(left, right, rule.transform or "ignored", rule.shown))
        self._take(rest, found)
        return bool(found)

    def _take(self, rest: list[Layer], tensors: Iterable[Tensor]) -> None:
        """Take tensors out of the layers that are left; what remains of a layer goes on, each tensor by itself."""
        taken = tuple(tensors)
        for layer in [layer for layer in rest if any(_among(t, taken) for t in layer.tensors.values())]:
            place = rest.index(layer)
            own = {role: tensor for role, tensor in layer.tensors.items() if not _among(tensor, taken)}
            rest[place : place + 1] = _apart(dataclasses.replace(layer, tensors=own))

    def _unmatched(self, rule: Rule) -> Problem:
        torch = rule.torch is not None
        layers = self._all[0] if torch else self._all[1]
        known = [path for layer in layers for path in (layer.path, *(t.path for t in layer.tensors.values()))]
        words = _none("layer or tensor of " + ("torch" if torch else "Flax"), rule.torch or rule.flax or "", known)
        return Problem("rule", rule.torch or rule.flax or "", f"{rule.shown}: {words}")


def _among(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    """Whether one of the others is this tensor, a part of it, or the whole that it is a part of."""
    return any(
        other.path == tensor.path and (other.part == tensor.part or None in (other.part, tensor.part))
        for other in others
    )


def _none(what: str, path: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(path, list(known), _SHOWN, cutoff=0.0)
    return f"there is no {what} `{path}`; nearest: {', '.join(f'`{name}`' for name in near)}"
