"""Which torch layer is which Flax layer, where kind, shapes and names leave one answer. Never a guess.

Layers of the same kind and shapes can be exchanged without anything noticing, so a pair must be the only one: each of
the two has at least as much in common with its partner as with any other layer of their class, and no other complete
pairing can be said to be so. What one class settles tells which container is which, and that may settle another.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from parity.weights import kinds, names
from parity.weights.layers import Layer

_Score = Callable[[int, int], int]
ALONE = "the only one of its kind and shapes"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two layers that belong together, and why."""

    torch: Layer
    flax: Layer
    why: str


@dataclasses.dataclass(frozen=True)
class Class:
    """Layers that shapes cannot tell apart, by their places in the sequences that `match` was given."""

    torch: tuple[int, ...]
    flax: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Matching:
    """Pairs, and the classes in which layers are left on both sides: `undecided` where names do not tell them apart."""

    pairs: tuple[Pair, ...]
    undecided: tuple[tuple[tuple[Layer, ...], tuple[Layer, ...]], ...]
    torch: tuple[Layer, ...]
    flax: tuple[Layer, ...]


def match(torch: Sequence[Layer], flax: Sequence[Layer]) -> Matching:
    """Pair what can be paired; what is left over, on either side, is returned."""
    classes = [_balanced(each, torch, flax) for each in _classes(torch, flax)]
    fits = _fitting(torch, flax)
    scores = [_scores(classes, torch, flax, spelled=spelled) for spelled in (False, True)]
    found: dict[int, int] = {}
    why: dict[int, str] = {}
    while True:
        bonus = _containers(found, torch, flax)
        # Spelling is asked only when all else has been said.
        for words, by in zip(scores, ("by name", "by spelling"), strict=True):
            fresh: dict[int, int] = {}
            for each, score in zip(classes, words, strict=True):
                if set(each.torch) <= found.keys():
                    continue
                new = _settle(each, score, bonus, fits, found)
                alone = len(each.torch) == len(each.flax) == 1
                reason = ALONE if alone else by if not found else f"{by} and place"
                why |= dict.fromkeys(new, reason)
                fresh |= new
            if fresh:
                break
        if not fresh:
            break
        found |= fresh
    pairs = tuple(Pair(torch[i], flax[found[i]], why[i]) for i in sorted(found))
    used = set(found.values())
    undecided = []
    for each in classes:
        left, right = [i for i in each.torch if i not in found], [j for j in each.flax if j not in used]
        one = tuple(torch[i] for i in left if any(fits(i, j) for j in right))
        other = tuple(flax[j] for j in right if any(fits(i, j) for i in left))
        if one:
            undecided.append((one, other))
    return Matching(
        pairs, tuple(undecided),
        tuple(layer for i, layer in enumerate(torch) if i not in found),
        tuple(layer for j, layer in enumerate(flax) if j not in used),
    )  # fmt: skip


def _scores(classes: Sequence[Class], torch: Sequence[Layer], flax: Sequence[Layer], *, spelled: bool) -> list[_Score]:
    return [
        names.alike(
            [_paths(torch[i]) for i in each.torch], [_paths(flax[j]) for j in each.flax], spelled=spelled
        )
        for each in classes
    ]  # fmt: skip


def exchanged(pairs: Sequence[Pair]) -> tuple[Pair, Pair] | None:
    """Two pairs that could change partners, of which one leaves a container and the other enters it, or None.

    A torch container and a Flax one hold the same pairs, or one holds all of the other's, or they have none in common:
    however a port nests its layers. Where each has some that the other lacks, and these could be each other's, a name
    has won against the structure. The same goes for containers whose names mean the same, common pairs or none.
    """
    torch, flax = [pair.torch for pair in pairs], [pair.flax for pair in pairs]
    fits = _fitting(torch, flax)
    inside: list[dict[str, set[int]]] = [{}, {}]
    meant: list[dict[tuple[str, ...], set[int]]] = [{}, {}]  # all of a list's together, as lists count from 0 or 1
    for side, meanings, layers in zip(inside, meant, (torch, flax), strict=True):
        for place, layer in enumerate(layers):
            for container in _ancestors(layer):
                side.setdefault(container, set()).add(place)
                meanings.setdefault(tuple(sorted(names.parse(container).words.elements())), set()).add(place)
    sets = [(left, right) for left in inside[0].values() for right in inside[1].values() if left & right]
    for left, right in (*sets, *((meant[0][words], meant[1][words]) for words in meant[0].keys() & meant[1].keys())):
        for one in sorted(left - right):
            for other in sorted(right - left):
                if fits(one, other) and fits(other, one):
                    return pairs[one], pairs[other]
    return None


def _paths(layer: Layer) -> tuple[str, ...]:
    return (layer.path, *layer.names)


def _signature(layer: Layer) -> tuple[object, ...]:
    shapes = tuple((role, tensor.size) for role, tensor in sorted(layer.tensors.items()))
    return layer.kind, shapes, tuple(sorted(layer.options.items()))


def _fitting(torch: Sequence[Layer], flax: Sequence[Layer]) -> Callable[[int, int], bool]:
    """Whether kinds and shapes allow a pair; asked of the kinds once for each two signatures."""
    known: dict[tuple[object, ...], bool] = {}
    left, right = [_signature(layer) for layer in torch], [_signature(layer) for layer in flax]

    def fits(i: int, j: int) -> bool:
        key = left[i], right[j]
        if key not in known:
            known[key] = bool(kinds.steps(torch[i], flax[j]))
        return known[key]

    return fits


def _classes(torch: Sequence[Layer], flax: Sequence[Layer]) -> list[Class]:
    """Connected groups of layers that fit one another."""
    fits = _fitting(torch, flax)
    parent = list(range(len(torch) + len(flax)))

    def root(node: int) -> int:
        while parent[node] != node:
            node = parent[node]
        return node

    for i in range(len(torch)):
        for j in range(len(flax)):
            if fits(i, j):
                parent[root(len(torch) + j)] = root(i)
    groups: dict[int, tuple[list[int], list[int]]] = {}
    for i in range(len(torch)):
        groups.setdefault(root(i), ([], []))[0].append(i)
    for j in range(len(flax)):
        groups.setdefault(root(len(torch) + j), ([], []))[1].append(j)
    return [Class(tuple(left), tuple(right)) for left, right in groups.values() if left and right]


def _balanced(each: Class, torch: Sequence[Layer], flax: Sequence[Layer]) -> Class:
    """Without the optional layers of the side that has more, if that makes both sides equal."""
    left, right = each.torch, each.flax
    if len(left) > len(right):
        needed = tuple(i for i in left if not torch[i].optional)
        left = needed if len(needed) == len(right) else left
    elif len(right) > len(left):
        needed = tuple(j for j in right if not flax[j].optional)
        right = needed if len(needed) == len(left) else right
    return Class(left, right)


def _containers(found: dict[int, int], torch: Sequence[Layer], flax: Sequence[Layer]) -> _Score:
    """How many containers hold both layers, where a container of torch's is known to be one of Flax's because just the
    same pairs lie in both."""
    inside: list[dict[str, frozenset[int]]] = []
    for layers, places in ((torch, {i: i for i in found}), (flax, {j: i for i, j in found.items()})):
        members: dict[str, set[int]] = {}
        for place, pair in places.items():
            for container in _ancestors(layers[place]):
                members.setdefault(container, set()).add(pair)
        inside.append({container: frozenset(pairs) for container, pairs in members.items()})

    def bonus(i: int, j: int) -> int:
        left = {inside[0][container] for container in _ancestors(torch[i]) if container in inside[0]}
        right = {inside[1][container] for container in _ancestors(flax[j]) if container in inside[1]}
        return names.EVIDENCE * len(left & right)

    return bonus


def _ancestors(layer: Layer) -> list[str]:
    return [] if layer.names else names.containers(layer.path)  # what lives in several places tells nothing of any


def _settle(
    each: Class, score: _Score, bonus: _Score, fits: Callable[[int, int], bool], found: dict[int, int]
) -> dict[int, int]:
    """The pairs that follow: mutually best, and without an alternative."""
    points = {
        (i, j): score(a, b) + bonus(i, j)
        for a, i in enumerate(each.torch) for b, j in enumerate(each.flax) if fits(i, j)
    }  # fmt: skip
    # Against all of the class, those already settled among them: what has most in common with another's partner has
    # a name that contradicts, and is not to be paired by elimination.
    best_left: dict[int, int] = {}
    best_right: dict[int, int] = {}
    for (i, j), value in points.items():
        best_left[i] = max(best_left.get(i, 0), value)
        best_right[j] = max(best_right.get(j, 0), value)
    used = set(found.values())
    open_ = {
        (i, j) for (i, j), value in points.items()
        if i not in found and j not in used and value == best_left[i] == best_right[j]
    }  # fmt: skip
    new: dict[int, int] = {}
    for group in _connected(open_):
        new |= _forced(group)
    return new


Edge = tuple[int, int]


def _connected(edges: set[Edge]) -> list[set[Edge]]:
    at: dict[tuple[int, int], set[Edge]] = {}
    for edge in edges:
        for place in (0, 1):
            at.setdefault((place, edge[place]), set()).add(edge)
    groups, seen = [], set[Edge]()
    for start in sorted(edges):
        if start in seen:
            continue
        group, todo = set[Edge](), [start]
        while todo:
            edge = todo.pop()
            if edge not in group:
                group.add(edge)
                todo += [other for place in (0, 1) for other in at[place, edge[place]] if other not in group]
        seen |= group
        groups.append(group)
    return groups


def _forced(edges: set[Edge]) -> dict[int, int]:
    """The pairs that every complete pairing along these edges has: a layer with one edge left takes it. None at all if
    that leaves another without, for then the edges contradict one another."""
    new: dict[int, int] = {}
    whole = [{edge[place] for edge in edges} for place in (0, 1)]
    if len(whole[0]) != len(whole[1]):
        return {}
    while True:
        degrees = [Counter(edge[place] for edge in edges) for place in (0, 1)]
        single = next((edge for edge in edges if 1 in (degrees[0][edge[0]], degrees[1][edge[1]])), None)
        if single is None:
            break
        new[single[0]] = single[1]
        edges = {edge for edge in edges if edge[0] != single[0] and edge[1] != single[1]}
    rest = [{edge[place] for edge in edges} for place in (0, 1)]
    stranded = len(new) + len(rest[0]) < len(whole[0]) or len(new) + len(rest[1]) < len(whole[1])
    return {} if stranded else new
