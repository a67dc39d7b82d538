"""Rules that a person gives where structure, shapes and names do not tell.

`*` stands for anything within one segment of a path and `**` for anything at all; what they stand for on one side is
filled in, in order, on the other. Both sides name a layer, whose kind then says what to do, or both a tensor.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from parity.weights import kinds, transforms
from parity.weights.layers import Layer, Tensor, WeightsError

_PART = re.compile(r"(?P<path>.*?)(?:\[(?P<index>\d+)/(?P<count>\d+)\])?")
_STARS = re.compile(r"\*\*|\*")


@dataclasses.dataclass(frozen=True)
class Rule:
    """`torch` goes to `flax` by `transform` (that of the kinds, if none is named). None on a side: what the pattern
    names is left as it is, or with the transform "zero" must be zero. `[i/n]` is a part: torch's first, Flax's last
    axis cut in n.

    >>> Rule("encoder.*.qkv.weight[0/3]", "blocks.*.query.kernel", "linear").partner("encoder.2.qkv.weight")
    'blocks.2.query.kernel'
    """

    torch: str | None
    flax: str | None
    transform: str = ""

    def __post_init__(self) -> None:
        if self.transform:
            transforms.get(self.transform)
        if self.torch is None and self.flax is None:
            raise WeightsError("a rule needs a pattern on one side at least, got None for both")
        stars = [len(_STARS.findall(side)) for side in (self.torch, self.flax) if side is not None]
        if len(set(stars)) > 1:
            raise WeightsError(
                f"{self.shown}: expected as many stars on both sides, as each is filled in on the other; got {stars}"
            )

    @property
    def shown(self) -> str:
        return f"rule `{self.torch}` -> `{self.flax}`" + (f" by {self.transform}" if self.transform else "")

    def partner(self, path: str) -> str | None:
        """The Flax path for a torch path that this rule is about, else None. Parts are not looked at."""
        found = None if self.torch is None else pattern(self.torch).fullmatch(path)
        if found is None or self.flax is None:
            return None
        captured = iter(found.groups())
        return _STARS.sub(lambda star: next(captured), _split(self.flax)[0])


Rules: TypeAlias = Mapping[str, str | tuple[str, str] | None] | Iterable[Rule | tuple[str | None, ...]]


def read(rules: Rules) -> tuple[Rule, ...]:
    """Rules as people write them: a mapping, or an iterable of rules and tuples.

    >>> read({"enc.*.q": "blocks.*.query", "pe": None, "w": ("w", "transpose")})[2]
    Rule(torch='w', flax='w', transform='transpose')
    """
    if isinstance(rules, Mapping):
        return tuple(
            Rule(torch, *flax) if isinstance(flax, tuple) else Rule(torch, flax) for torch, flax in rules.items()
        )
    return tuple(rule if isinstance(rule, Rule) else Rule(*rule) for rule in rules)  # type: ignore[arg-type]


def pattern(text: str) -> re.Pattern[str]:
    """A glob as a regular expression, each star a group."""
    pieces = re.split(r"(\*\*|\*)", _split(text)[0])
    return re.compile("".join({"**": "(.*)", "*": "([^.]*)"}.get(piece, re.escape(piece)) for piece in pieces))


def _split(text: str) -> tuple[str, tuple[int, int] | None]:
    found = _PART.fullmatch(text)
    assert found is not None  # it matches anything
    part = None if found["index"] is None else (int(found["index"]), int(found["count"]))
    return found["path"], part


def cut(item: Layer | Tensor, text: str, axis: int) -> Layer | Tensor:
    """The layer or tensor, or the part of it that a rule's text asks for."""
    part = _split(text)[1]
    if part is None:
        return item
    if isinstance(item, Tensor):
        return item.piece(*part, axis)
    tensors = {role: tensor.piece(*part, axis) for role, tensor in item.tensors.items()}
    return dataclasses.replace(item, tensors=tensors)


def step(rule: Rule, torch: tuple[Layer, str], flax: tuple[Layer, str]) -> kinds.Step:
    """What a rule does with a tensor of each side, given as layer and role.

    Raises `WeightsError` where the shapes do not fit, or no transform is named and the kinds do not tell.
    """
    left, right = (
        cut(dataclasses.replace(layer.tensors[role], part=None), text or "", axis)
        for (layer, role), text, axis in ((torch, rule.torch, 0), (flax, rule.flax, -1))
    )
    assert isinstance(left, Tensor)
    assert isinstance(right, Tensor)
    named = [rule.transform] if rule.transform else [] if kinds.square(torch[0]) else [
        move.transform
        for pairing in kinds.TABLE if pairing.torch == torch[0].kind and flax[0].kind in pairing.flax
        for move in pairing.moves if move.torch == (torch[1],) and move.flax == (flax[1],)
    ]  # fmt: skip
    if not named and len(left.size) < 2:
        named = ["identity"]
    for name in dict.fromkeys(named):
        if transforms.get(name).fits((left.size,), (right.size,)):
            return kinds.Step((left,), (right,), name)
    if rule.transform:
        words = transforms.get(rule.transform).words
        raise WeightsError(
            f"{rule.shown}: {rule.transform} ({words}) does not make `{left.shown}` {left.size} into `{right.shown}` "
            f"{right.size}"
        )
    raise WeightsError(
        f"{rule.shown}: name the transform from `{left.shown}` {left.size} to `{right.shown}` {right.size}, one of "
        f"{', '.join(transforms.TABLE)}; the kinds {torch[0].kind} and {flax[0].kind} do not tell it"
    )
