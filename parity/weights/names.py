"""What two layers' names have in common. Evidence is exact: the same word, a synonym from the table, or the same place
in a numbered sequence. How similar two words look is no evidence (`key` is as near to `query` as `k` is); that serves
for the candidates in error messages only.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")
# A piece of evidence outweighs all spelling, which decides only between `fc` and `linear`, or `self_attn` and
# `multihead_attn`, where both sides have both. Words that are merely spelled alike decide nothing: `lin1` is `fc1`.
EVIDENCE = 100

# Each line: a word, and what others call the same thing. Nothing here may stand for two things in one model's block.
_SYNONYMS = """
query: q wq qproj queries
key: k wk kproj keys
value: v wv vproj val values
out: o wo output oproj
attention: attn att mha multihead multiheadattention multiheadattn multiheaddotproductattention
cross: encdec
norm: ln layernorm bn batchnorm gn groupnorm instancenorm rmsnorm rms normalization normalisation
linear: fc lin dense affine
convolution: conv cnn
embedding: embed emb embeddings embeds
token: tok tokens word words wte
position: pos positional positions wpe
encoder: enc
decoder: dec
mlp: ff ffn feedforward
head: classifier logits
shortcut: skip residual
backward: reverse
recurrent: rnn
"""
# Words that say only that something is a module: no evidence.
_PLAIN_WORDS = """
layer layers block blocks module modules net model proj projection to fn stack list sequential cell cells h c features
transformer resblocks weight kernel self general l
"""
_PLAIN = frozenset(_PLAIN_WORDS.split())
_CANONICAL = {
    other: word for word, others in (line.split(":") for line in _SYNONYMS.strip().splitlines())
    for other in others.split()
}  # fmt: skip
# Synonyms that are also written as several words. Not all may be joined: `to_k` is no `tok`.
_COMPOUND_WORDS = """
feedforward layernorm batchnorm groupnorm instancenorm rmsnorm multihead multiheadattention multiheadattn
multiheaddotproductattention encdec wq wk wv wo
"""
_COMPOUNDS = frozenset(_COMPOUND_WORDS.split())
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@dataclasses.dataclass(frozen=True)
class Number:
    """A place in a numbered sequence. `group` is the sequence as it is written, `series` the same in canonical words
    (`fc1` and `dense_2` are one series), `label` what it counts, and `nth` tells two of one label in one path apart."""

    group: str
    series: tuple[str, ...]
    label: str
    nth: int
    value: int


@dataclasses.dataclass(frozen=True)
class Name:
    """A path taken apart: canonical words, plain ones not among them, and numbers."""

    path: str
    words: Counter[str]
    numbers: tuple[Number, ...]

    @functools.cached_property
    def segments(self) -> Counter[str]:
        """As they are spelled, those without a number."""
        return Counter(segment for segment in self.path.split(".") if not any(map(str.isdigit, segment)))


def parse(path: str) -> Name:
    """
    >>> name = parse("encoder.blocks.2.attn.to_q")
    >>> sorted(name.words), [(number.label, number.value) for number in name.numbers]
    (['attention', 'encoder', 'query'], [('layer', 2)])
    """
    words: Counter[str] = Counter()
    numbers: list[Number] = []
    label, before = "layer", ""
    for segment in path.split("."):
        stem: tuple[str, ...] = ()
        for word, start in _joined(segment):
            if word.isdigit():
                place = f"{before}.{segment[:start]}"
                nth = sum(number.label == label for number in numbers)
                numbers.append(Number(place, (before, *stem), label, nth, int(word)))
            else:
                canonical = _CANONICAL.get(word, word)
                if word not in _PLAIN:
                    words[canonical] += 1
                label = "layer" if word in _PLAIN else canonical
                stem = (*stem, label)
        before = f"{before}.{segment}"
    return Name(path, words, tuple(numbers))


def _joined(segment: str) -> Iterator[tuple[str, int]]:
    """Its words and numbers and where they begin; words that make a synonym together (`feed_forward`) as one, or one
    notion would count as two pieces of evidence where it is spelled alike, and as none where it is not."""
    found = [(match.group().lower(), match.start()) for match in _WORDS.finditer(segment)]
    while found:
        for count in range(len(found), 0, -1):
            word = "".join(piece for piece, _ in found[:count])
            if count == 1 or word in _COMPOUNDS:
                yield word, found[0][1]
                del found[:count]
                break


def alike(
    torch: Sequence[Sequence[str]], flax: Sequence[Sequence[str]], *, spelled: bool = False
) -> Callable[[int, int], int]:
    """How much the i-th torch layer has in common with the j-th Flax one, each given by all of its paths.

    Both sequences are of layers that could be exchanged for one another, as many on one side as on the other: places
    in numbered sequences are counted among them. A number that all layers of its sequence share says nothing, and a
    sequence counts only where both sides have it with the same lengths. `spelled`: modules of one spelling count too,
    less than any evidence.

    >>> score = alike([["fc1"], ["fc2"]], [["Dense_0"], ["Dense_1"]])
    >>> [[score(i, j) // EVIDENCE for j in range(2)] for i in range(2)]
    [[2, 1], [1, 2]]
    """
    left = [[parse(path) for path in paths] for paths in torch]
    right = [[parse(path) for path in paths] for paths in flax]
    left_places, right_places = _places(left), _places(right)
    aligned = _aligned(left_places, right_places)

    def score(i: int, j: int) -> int:
        return max(
            EVIDENCE * (a.words & b.words).total()
            + EVIDENCE * sum(key in p and other in q and p[key] == q[other] for key, other in aligned.items())
            + (min((a.segments & b.segments).total(), EVIDENCE - 1) if spelled else a.path == b.path)
            for a, p in zip(left[i], left_places[i], strict=True)
            for b, q in zip(right[j], right_places[j], strict=True)
        )

    return score


_Places = list[list[dict[tuple[str, int], int]]]


def _places(layers: Sequence[Sequence[Name]]) -> _Places:
    """For each name the rank of its numbers in their sequences, by label."""
    values: dict[tuple[str, ...], set[int]] = {}
    for names in layers:
        for name in names:
            for number in name.numbers:
                values.setdefault(number.series, set()).add(number.value)
    return [
        [
            {
                (number.label, number.nth): sorted(values[number.series]).index(number.value)
                for number in name.numbers if len(values[number.series]) > 1
            }
            for name in names
        ]
        for names in layers
    ]  # fmt: skip


def _aligned(torch: _Places, flax: _Places) -> Mapping[tuple[str, int], tuple[str, int]]:
    """Which numbers of torch's are which of Flax's: those of the same label, and if one is left over on each side,
    those two. Only where both sides count alike."""
    counts = [
        {
            key: Counter(place[key] for names in side for place in names[:1] if key in place)
            for key in sorted({key for names in side for place in names for key in place})
        }
        for side in (torch, flax)
    ]
    pairs = {key: key for key in counts[0] if key in counts[1]}
    rest = [[key for key in count if key not in pairs] for count in counts]
    if len(rest[0]) == len(rest[1]) == 1:
        pairs[rest[0][0]] = rest[1][0]
    return {key: other for key, other in pairs.items() if counts[0][key] == counts[1][other]}


def crossing(pairs: Sequence[tuple[str, str, _Item]]) -> tuple[_Item, _Item] | None:
    """Two pairs of paths whose numbers run against each other in the same two sequences, or None.

    >>> crossing([("net.0", "layers_1", "a"), ("net.3", "layers_0", "b")])
    ('a', 'b')
    """
    seen: dict[tuple[str, str], list[tuple[int, int, _Item]]] = {}
    for torch, flax, item in pairs:
        left, right = parse(torch).numbers, parse(flax).numbers
        for a in left:
            for b in right:
                if (a.label, a.nth) == (b.label, b.nth) or len(left) == len(right) == 1:
                    seen.setdefault((a.group, b.group), []).append((a.value, b.value, item))
    for places in seen.values():
        places.sort(key=lambda place: place[:2])
        for (low, high, one), (later, lower, other) in itertools.pairwise(places):
            if low < later and high > lower:
                return one, other
    return None


def containers(path: str) -> list[str]:
    """
    >>> containers("enc.blocks.0.fc")
    ['enc', 'enc.blocks', 'enc.blocks.0']
    """
    segments = path.split(".")
    return [".".join(segments[:end]) for end in range(1, len(segments))]
