"""What a `config.pbtxt` says to us: the fields of Triton's ModelConfig that are read.

Zeros mean "not set", as they do there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from batchserve.config.names import did_you_mean, listing
from batchserve.config.pbtxt import Field, Message, Scalar, Word, parse
from batchserve.config.schema import MODEL_KEYS, DeclaredTensor
from batchserve.config.triton_fields import DATA_TYPES, KNOWN_FIELDS, LISTS, NOT_SET
from batchserve.config.units import BadValueError
from batchserve.errors import ConfigError

__all__ = ["TritonConfig", "read_config_pbtxt"]

_PLATFORMS = ("onnxruntime_onnx",)
_BACKENDS = ("onnxruntime",)
_TRUE: tuple[Scalar, ...] = (1, Word("true"), Word("True"), Word("t"))
_FALSE: tuple[Scalar, ...] = (0, Word("false"), Word("False"), Word("f"))


@dataclass(slots=True)
class TritonConfig:
    """What one file says.

    Attributes:
        values: Value of each of our keys that the file sets, with the place it stands at (`file:line:column`).
        inputs: Declared inputs, in the file's order.
        outputs: Declared outputs.
        unused: Fields that Triton knows and we do not use, as `dynamic_batching.preserve_ordering`, each once.
    """

    values: dict[str, tuple[Any, str]] = field(default_factory=dict)
    inputs: tuple[DeclaredTensor, ...] = ()
    outputs: tuple[DeclaredTensor, ...] = ()
    unused: list[str] = field(default_factory=list)


def read_config_pbtxt(text: str, source: str, model_name: str) -> TritonConfig:
    """Read a `config.pbtxt`.

    Args:
        text: What the file holds.
        source: Its name, for errors and origins.
        model_name: The model's name, which is its folder's; the file must agree.

    Raises:
        ConfigError: Not the text format, an unknown field, or a value that cannot be.
    """
    return _Reading(source).config(parse(text, source), model_name)


class _Reading:
    """Gathers what one file says; used once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._found = TritonConfig()

    def _error(self, at: Field, problem: str) -> ConfigError:
        return ConfigError(f"{self._source}:{at.place}: {problem}")

    def _message(self, at: Field) -> Message:
        if not isinstance(at.value, Message):
            raise self._error(at, f"{at.name} is {_shown(at.value)}; expected a message: {at.name} {{ … }}")
        return at.value

    def _int(self, at: Field) -> int:
        if not isinstance(at.value, int):
            raise self._error(at, f"{at.name} is {_shown(at.value)}; expected a whole number")
        return at.value

    def _str(self, at: Field) -> str:
        if not isinstance(at.value, str):
            raise self._error(at, f"{at.name} is {_shown(at.value)}; expected a string in quotes")
        return at.value

    def _set(self, key: str, value: object, at: Field) -> None:
        """Give one of our keys a value, checked as if it stood in our own file."""
        kind = MODEL_KEYS[key].kind
        try:
            self._found.values[key] = kind.read(value), f"{self._source}:{at.place}"
        except BadValueError as bad:
            hint = f"; {bad.hint}" if bad.hint else ""
            raise self._error(
                at, f"{at.name} is {_shown(at.value)}, which {bad.reason}; expected {kind.allowed}{hint}"
            ) from bad

    def _not_used(self, path: str) -> None:
        if path not in self._found.unused:
            self._found.unused.append(path)

    def _fields(self, message: Message, kind: str, path: str, *used: str) -> dict[str, list[Field]]:
        """Sort a message's fields by name, note those we do not use, and refuse those nobody knows.

        Args:
            message: The message.
            kind: Its type, a key of `KNOWN_FIELDS`.
            path: How to name it in the warning, with a dot at its end, or "".
            used: Fields we use: those that may be repeated with a `*` at the end.
        """
        single = {name for name in used if not name.endswith("*")}
        repeated = {name[:-1] for name in used if name.endswith("*")}
        found: dict[str, list[Field]] = {name: [] for name in (*single, *repeated)}
        for entry in message.fields:
            if entry.name in found:
                found[entry.name].append(entry)
                if entry.name in single and len(found[entry.name]) > 1:
                    raise self._error(entry, f"{path}{entry.name} is given twice; expected it once")
            elif entry.name not in KNOWN_FIELDS[kind]:
                known = KNOWN_FIELDS[kind]
                near = did_you_mean(entry.name, known) or (f"known are {listing(known)}" if known else "it has none")
                raise self._error(entry, f"unknown field {entry.name!r} in {kind}; {near}")
            elif entry.name in LISTS or entry.value not in NOT_SET:
                self._not_used(f"{path}{entry.name}")
        return found

    def config(self, message: Message, model_name: str) -> TritonConfig:
        """Read the whole file."""
        fields = self._fields(
            message,
            "ModelConfig",
            "",
            *("name", "platform", "backend", "max_batch_size", "default_model_filename"),
            *("dynamic_batching", "version_policy", "input*", "output*", "instance_group*"),
        )
        for at in fields["name"]:
            if self._str(at) not in ("", model_name):
                raise self._error(
                    at, f"name is {_shown(at.value)}; expected {model_name!r}, the name of the model's folder"
                )
        self._check_runtime(fields["platform"], _PLATFORMS)
        self._check_runtime(fields["backend"], _BACKENDS)
        for at in fields["default_model_filename"]:
            if self._str(at) not in ("", "model.onnx"):
                self._not_used(at.name)
        is_batched = False
        for at in fields["max_batch_size"]:
            if (most := self._int(at)) != 0:
                self._set("max_batch_size", most, at)
                is_batched = True
        self._found.inputs = self._tensors(fields["input"], "ModelInput", is_batched=is_batched)
        self._found.outputs = self._tensors(fields["output"], "ModelOutput", is_batched=is_batched)
        self._instance_groups(fields["instance_group"])
        for at in fields["dynamic_batching"]:
            self._dynamic_batching(at)
        for at in fields["version_policy"]:
            self._version_policy(at)
        return self._found

    def _check_runtime(self, given: list[Field], served: tuple[str, ...]) -> None:
        for at in given:
            if self._str(at) not in ("", *served):
                raise self._error(
                    at, f"{at.name} is {_shown(at.value)}; only ONNX models are served: expected {listing(served)}"
                )

    def _dynamic_batching(self, at: Field) -> None:
        fields = self._fields(
            self._message(at),
            "ModelDynamicBatching",
            "dynamic_batching.",
            *("max_queue_delay_microseconds", "preferred_batch_size*"),
            *("priority_levels", "default_priority_level", "default_queue_policy"),
        )
        for delay in fields["max_queue_delay_microseconds"]:
            if (microseconds := self._int(delay)) != 0:
                self._set("max_queue_delay", f"{microseconds}us", delay)
        if preferred := fields["preferred_batch_size"]:
            self._set("preferred_batch_sizes", [self._rows(size) for size in preferred], preferred[0])
        levels = 1
        for given in fields["priority_levels"]:
            if levels := self._int(given):
                self._set("priority_levels", levels, given)
        for default in fields["default_priority_level"]:
            if self._int(default) not in (0, (levels + 1) // 2):  # ours is always the middle one
                self._not_used(f"dynamic_batching.{default.name}")
        for policy in fields["default_queue_policy"]:
            self._queue_policy(policy, "dynamic_batching.default_queue_policy.")

    def _rows(self, at: Field) -> int:
        if (rows := self._int(at)) < 1:
            raise self._error(at, f"{at.name} is {rows}; expected 1 row or more")
        return rows

    def _queue_policy(self, at: Field, path: str) -> None:
        """Read the limits of the queue; a time-out that only puts requests behind the others is none of ours."""
        fields = self._fields(
            self._message(at),
            "ModelQueuePolicy",
            path,
            *("timeout_action", "default_timeout_microseconds", "allow_timeout_override", "max_queue_size"),
        )
        is_refusing = all(action.value in (0, Word("REJECT")) for action in fields["timeout_action"])
        for unused in () if is_refusing else (*fields["timeout_action"], *fields["default_timeout_microseconds"]):
            self._not_used(f"{path}{unused.name}")
        for timeout in fields["default_timeout_microseconds"] if is_refusing else ():
            if (microseconds := self._int(timeout)) != 0:
                self._set("timeout", f"{microseconds}us", timeout)
        for override in fields["allow_timeout_override"]:
            if override.value in _TRUE:
                self._set("allow_timeout_override", True, override)
            elif override.value not in _FALSE:
                raise self._error(override, f"{override.name} is {_shown(override.value)}; expected true or false")
        for size in fields["max_queue_size"]:
            if (most := self._int(size)) != 0:
                self._set("max_queue_size", most, size)

    def _instance_groups(self, groups: list[Field]) -> None:
        """Add the groups' counts up; a group without one counts as one."""
        instances, first = 0, None
        for group in groups:
            fields = self._fields(self._message(group), "ModelInstanceGroup", "instance_group.", "count")
            count = fields["count"][0] if fields["count"] else None
            number = self._int(count) if count else 0
            if count and number < 0:
                raise self._error(count, f"count is {number}; expected 1 or more, or 0 for the default")
            if number:
                first = first or count
            instances += number or 1
        if first:
            self._set("instances", instances, first)

    def _tensors(self, given: list[Field], kind: str, *, is_batched: bool) -> tuple[DeclaredTensor, ...]:
        tensors: dict[str, DeclaredTensor] = {}
        for at in given:
            fields = self._fields(self._message(at), kind, f"{at.name}.", "name", "data_type", "dims*", "reshape")
            name = self._str(fields["name"][0]) if fields["name"] else ""
            if not name:
                raise self._error(at, f'an {at.name} has no name; expected name: "…"')
            if name in tensors:
                raise self._error(at, f"{at.name} {name!r} is declared twice; expected it once")
            data_type = self._data_type(fields["data_type"][0]) if fields["data_type"] else ""
            dims: tuple[int, ...] | None = tuple(self._dim(dim) for dim in fields["dims"]) or None
            if fields["reshape"]:
                # dims are then those that clients of Triton send, not the model's: nothing to compare.
                dims = None
                self._not_used(f"{at.name}.reshape")
            tensors[name] = DeclaredTensor(name, data_type, dims, leaves_out_batch=is_batched)
        return tuple(tensors.values())

    def _dim(self, at: Field) -> int:
        dim = self._int(at)
        if dim != -1 and not 1 <= dim < 2**63:
            raise self._error(at, f"a dimension is {dim}; expected 1 or more, or -1 where it is free")
        return dim

    def _data_type(self, at: Field) -> str:
        value = at.value
        if isinstance(value, int) and 0 <= value < len(DATA_TYPES):
            value = Word(DATA_TYPES[value])
        if not isinstance(value, Word) or value.name not in DATA_TYPES:
            near = did_you_mean(value.name, DATA_TYPES) if isinstance(value, Word) else ""
            raise self._error(
                at, f"data_type is {_shown(at.value)}; {near or 'expected one of ' + ', '.join(DATA_TYPES[1:])}"
            )
        return "" if value.name == "TYPE_INVALID" else value.name

    def _version_policy(self, at: Field) -> None:
        fields = self._fields(self._message(at), "ModelVersionPolicy", "version_policy.", "latest", "all", "specific")
        chosen = [entry for entries in fields.values() for entry in entries]
        if len(chosen) > 1:
            raise self._error(at, "version_policy has several choices; expected one of latest, all and specific")
        readers: dict[str, Callable[[Field], object]] = {
            "latest": self._latest,
            "all": self._all,
            "specific": self._specific,
        }
        for choice in chosen:
            self._set("version_policy", readers[choice.name](choice), choice)

    def _latest(self, at: Field) -> str:
        fields = self._fields(self._message(at), "Latest", "version_policy.latest.", "num_versions")
        number = self._int(fields["num_versions"][0]) if fields["num_versions"] else 0
        if number < 0:
            raise self._error(
                fields["num_versions"][0], f"num_versions is {number}; expected 1 or more, or 0 for the default"
            )
        return f"latest:{number or 1}"

    def _all(self, at: Field) -> str:
        self._fields(self._message(at), "All", "version_policy.all.")
        return "all"

    def _specific(self, at: Field) -> list[int]:
        fields = self._fields(self._message(at), "Specific", "version_policy.specific.", "versions*")
        return [self._int(version) for version in fields["versions"]]


def _shown(value: Scalar | Message) -> str:
    if isinstance(value, Message):
        return "a message"
    return value.name if isinstance(value, Word) else repr(value)
