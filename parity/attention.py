"""`Attention`: the parameters of one attention case, its name, and the case it stands for.

Name and parameters are one to one: `Attention.parse(a.name) == a`. So any case, a shrunk fuzz case too, is
repeated by its name alone.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from parity.cases import Case, TensorSpec
from parity.tensors import SPECIAL

DTYPES = ("float32", "bfloat16", "float16")

# The axes that a bias or a mask spans; `1` is an axis of size 1, leading axes may be absent (S2).
FORMS = ("j", "ij", "hij", "11ij", "1hij", "b11j", "b1ij", "bh1j", "bhi1", "111j", "bhij")

_SHORT = {
    "batch": "b",
    "heads": "h",
    "kv_heads": "kv",
    "q_len": "i",
    "kv_len": "j",
    "head_dim": "d",
    "value_dim": "e",
    "logsumexp": "lse",
}
_LONG = {short: long for long, short in _SHORT.items()}


@dataclasses.dataclass(frozen=True)
class Attention:
    """The defaults are the palette: a small prime-ish size for each axis, so that a swapped axis cannot pass."""

    batch: int = 2
    heads: int = 4
    kv_heads: int = 4
    q_len: int = 13
    kv_len: int = 13
    head_dim: int = 8
    value_dim: int = 8
    dtype: str = "float32"
    flash: bool = False
    causal: bool | str = False
    bias: str | None = None
    bias_dtype: str | None = None
    mask: str | None = None
    scale: float | None = None
    layout: str = "bhnd"
    logsumexp: bool = False
    dropout: float = 0.0
    std: float = 1.0
    values: str = "normal"
    kind: str = "exact"
    rule: str = "S1"

    @property
    def name(self) -> str:
        parts = [self.rule]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "rule" and value != field.default:
                text = str(int(value) if isinstance(value, bool) else value).replace("+", "")  # 1e+20 is 1e20
                parts.append(f"{_SHORT.get(field.name, field.name)}={text}")
        return ",".join(parts)

    @classmethod
    def parse(cls, name: str) -> Attention:
        """The inverse of `name`.

        >>> Attention.parse("S3,i=5,causal=1,bias=hij").name
        'S3,i=5,causal=1,bias=hij'

        Raises:
          ValueError: what in the name is not understood.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        rule, *parts = name.split(",")
        values: dict[str, Any] = {"rule": rule}
        for part in parts:
            short, equals, text = part.partition("=")
            key = _LONG.get(short, short)
            if not equals or key not in fields or key == "rule":
                known = ", ".join(_SHORT.get(key, key) for key in fields if key != "rule")
                raise ValueError(f"{part!r} in case {name!r} is not KEY=VALUE with a KEY of {known}")
            values[key] = _read(key, text, name)
        case = cls(**values)
        case.check()
        return case

    def check(self) -> None:
        """Raise ValueError if no such case can be made."""
        problems = [
            (self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}"),
            (self.bias is None or self.bias in FORMS, f"bias must be one of {', '.join(FORMS)}"),
            (self.mask is None or self.mask in FORMS, f"mask must be one of {', '.join(FORMS)}"),
            (self.bias_dtype is None or self.bias_dtype in DTYPES, f"bias_dtype must be one of {', '.join(DTYPES)}"),
            (self.causal in (False, True, "lower_right", "upper_left"), "causal must be 1, lower_right or upper_left"),
            (self.layout in ("bhnd", "bnhd"), "layout must be bhnd or bnhd"),
            (self.head_dim > 0, "d must be at least 1"),
            (min(self.batch, self.heads, self.kv_heads, self.q_len, self.kv_len, self.value_dim) >= 0, "sizes >= 0"),
            (self.kv_heads == self.heads or (self.kv_heads > 0 and self.heads % self.kv_heads == 0), "h % kv == 0"),
            (0 <= self.dropout <= 1, "dropout must lie between 0 and 1"),
            (self.kind in ("exact", "dropout"), "kind must be exact or dropout"),
            (re.fullmatch(r"[A-Za-z0-9._-]+", self.rule), "it must begin with a rule of letters, digits, . _ -"),
            (self.values in SPECIAL, f"values must be one of {', '.join(SPECIAL)}"),
            ("bias" not in self.values or self.bias, f"values={self.values} needs a bias"),
            (not self.values.startswith(("empty-", "masked-")) or self.mask, f"values={self.values} needs a mask"),
            (self.scale is None or math.isfinite(self.scale), "scale must be finite"),
            (0 <= self.std < math.inf, "std must be finite and not negative"),
        ]
        for good, words in problems:
            if not good:
                raise ValueError(f"case {self.name!r} cannot be made: {words}")

    def case(self) -> Case:
        """The case as named tensors and arguments."""
        sizes = {"b": self.batch, "h": self.heads, "i": self.q_len, "j": self.kv_len}
        scores = tuple(sizes.values())
        tensors = [
            TensorSpec("query", self._shape(self.heads, self.q_len, self.head_dim), self.dtype, std=self.std),
            TensorSpec("key", self._shape(self.kv_heads, self.kv_len, self.head_dim), self.dtype, std=self.std),
            TensorSpec("value", self._shape(self.kv_heads, self.kv_len, self.value_dim), self.dtype),
        ]
        if self.bias is not None:
            shape = tuple(sizes.get(axis, 1) for axis in self.bias)
            tensors.append(TensorSpec("bias", shape, self.bias_dtype or self.dtype))
        if self.mask is not None:
            shape = tuple(sizes.get(axis, 1) for axis in self.mask)
            tensors.append(TensorSpec("mask", shape, "bool", "constant", std=0.7))
        if self.dropout and self.kind == "exact":
            tensors.append(TensorSpec("dropout_mask", scores, "bool", "constant", std=1 - self.dropout))
        output = self._shape(self.heads, self.q_len, self.value_dim)
        tensors.append(TensorSpec("cotangent_output", output, self.dtype, "cotangent"))
        if self.logsumexp:
            tensors.append(TensorSpec("cotangent_logsumexp", scores[:3], "float32", "cotangent"))
        arguments = {
            "dropout": self.dropout,
            "flash": self.flash,
            "causal": self.causal,
            "scale": self.scale,
            "layout": self.layout,
            "return_logsumexp": self.logsumexp,
        }
        defaults = {"layout": "bhnd", "scale": None}
        return Case(
            name=self.name,
            tensors=tuple(tensors),
            arguments={key: value for key, value in arguments.items() if value != defaults.get(key, False)},
            finite=not self.unseen,
            grouped=1 < self.kv_heads < self.heads,
            # In every case it would cost JAX a quarter more of compiling.
            inference=self.rule == "core" and self.bias in (None, "hij"),
            values=self.values,
            kind=self.kind,
        )

    @property
    def unseen(self) -> bool:
        """Holds numbers that S17 specifies for einsum only."""
        return "nan" in self.values or "inf" in self.values

    @property
    def corner(self) -> str | None:
        """The causal corner that is meant: `causal=True` is lower right (S3), with `flash` upper left (S8)."""
        if self.causal is True:
            return "upper_left" if self.flash else "lower_right"
        return self.causal or None

    def _shape(self, heads: int, length: int, features: int) -> tuple[int, ...]:
        if self.layout == "bhnd":
            return (self.batch, heads, length, features)
        return (self.batch, length, heads, features)


def _read(key: str, text: str, name: str) -> Any:
    kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Attention)}
    try:
        if key == "causal":
            return {"0": False, "1": True}.get(text, text)
        if kinds[key] == "bool":
            return {"0": False, "1": True}[text]
        if kinds[key] == "int":
            return int(text)
        if "float" in kinds[key]:
            return float(text)
    except (ValueError, KeyError):
        raise ValueError(f"{key}={text!r} in case {name!r} is not a value that {key} can have") from None
    return text
