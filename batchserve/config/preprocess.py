"""The key `preprocess`: what is done to images inside the model, so that clients send bytes instead of floats."""

from __future__ import annotations

from dataclasses import dataclass

from batchserve.config.kinds import Kind, toml_string, with_word
from batchserve.config.names import did_you_mean
from batchserve.config.tables import show_table, table_from_text
from batchserve.config.units import BadValueError

__all__ = ["PreprocessConfig", "preprocessing", "show_preprocessing"]

LAYOUTS = ("NHWC->NCHW", "NCHW", "NHWC")
RESIZES = ("none", "linear", "nearest")
_MOST_CHANNELS = 1024
_LARGEST = 1e30


@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """What a `preprocess` table says. A value of channel c becomes `(value * scale - mean[c]) / std[c]`.

    Attributes:
        input: The input it is done to; "" for the only one that can be an image.
        layout: The axes of what clients send and, behind the arrow, of what the model takes if that differs.
        scale: Factor for the values 0 to 255 that clients send.
        mean: Subtracted after that: one for each channel, one for all, or none.
        std: Divides what is left: one for each channel, one for all, or none.
        resize: `none`, or how an image of any size is brought to the model's: `linear` or `nearest`.
    """

    input: str = ""
    layout: str = LAYOUTS[0]
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: str = RESIZES[0]


_KEYS = tuple(PreprocessConfig.__dataclass_fields__)


def preprocessing() -> Kind:
    """A `preprocess` table, or `none`; as text an inline table of TOML."""
    kind = Kind(
        "table",
        'a table such as {scale = 0.00392157, mean = [0.485, 0.456, 0.406], resize = "linear"}',
        _read,
        table_from_text,
        show_preprocessing,
    )
    return with_word(kind, "none")


def _read(value: object) -> PreprocessConfig:
    if not isinstance(value, dict):
        raise BadValueError("is not a table")
    for name in value:
        if name not in _KEYS:
            raise BadValueError(
                f"has the unknown key {name!r}", did_you_mean(name, _KEYS) or f"known are {', '.join(_KEYS)}"
            )
    name = value.get("input", "")
    if not isinstance(name, str):
        raise BadValueError("has an input that is not a name", "name the model's input, or leave it out")
    std = _numbers("std", value.get("std", []))
    if any(entry <= 0 for entry in std):
        raise BadValueError("has a std that is not above 0", "values are divided by it")
    scale = _numbers("scale", value.get("scale", 1.0))
    if len(scale) != 1 or scale[0] == 0:
        raise BadValueError(
            f"has the scale {value['scale']!r}", "expected one number that is not 0, such as 0.00392157 for 1/255"
        )
    return PreprocessConfig(
        input=name,
        layout=_one_of("layout", value.get("layout", LAYOUTS[0]), LAYOUTS),
        scale=scale[0],
        mean=_numbers("mean", value.get("mean", [])),
        std=std,
        resize=_one_of("resize", value.get("resize", RESIZES[0]), RESIZES),
    )


def _numbers(what: str, value: object) -> tuple[float, ...]:
    """Read a number or a list of them."""
    entries = value if isinstance(value, list) else [value]
    if len(entries) > _MOST_CHANNELS:
        raise BadValueError(f"has {len(entries)} numbers as {what}", "expected one for each channel")
    numbers = [
        float(entry)
        for entry in entries
        if isinstance(entry, int | float) and not isinstance(entry, bool) and abs(entry) <= _LARGEST
    ]
    if len(numbers) < len(entries):
        raise BadValueError(f"has {value!r} as {what}", "expected a number, or a list with one for each channel")
    return tuple(numbers)


def _one_of(what: str, value: object, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        hint = did_you_mean(value, known) if isinstance(value, str) else ""
        raise BadValueError(f"has the {what} {value!r}", hint or f"known are {', '.join(known)}")
    return value


def show_preprocessing(value: PreprocessConfig) -> str:
    """Write the value of `preprocess` as an inline table of TOML, without what is as it would be anyway."""
    plain = PreprocessConfig()
    return show_table(
        {name: _shown(given) for name in _KEYS if (given := getattr(value, name)) != getattr(plain, name)}
    )


def _shown(value: str | float | tuple[float, ...]) -> str:
    return toml_string(value) if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)
