"""Check a value against a structural schema of a CRD and word what is wrong.

Called by `schema.py`. Unknown fields are refused here (an API server drops them with a warning), patterns match whole
values as Go's do, integers are never booleans or floats, numbers are finite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from paddock_operator.core.problems import TYPE_WORDS, Problem, path_text, shown, suggestion, type_word, unknown_field

Schema = Mapping[str, Any]


def closed(schema: Schema) -> dict[str, Any]:
    """The same schema for a JSON Schema validator, with unknown fields of every described object forbidden."""
    out = {key: value for key, value in schema.items() if not key.startswith("x-")}
    out["properties"] = {name: closed(child) for name, child in schema.get("properties", {}).items()}
    if "items" in schema:
        out["items"] = closed(schema["items"])
    free = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and not free:
        out["additionalProperties"] = False
    return out


def _whole_pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    # re.search would let a final newline pass where Go's regexp does not
    if isinstance(instance, str) and not re.fullmatch(pattern, instance):
        yield ValidationError("pattern")


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: Any, value: Any) -> bool:
    return _is_integer(_, value) or (isinstance(value, float) and math.isfinite(value))


_Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    validators={"pattern": _whole_pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number}),
)


def validator(schema: Schema) -> Any:
    """Compile a CRD's schema once; give the result to `structural_problems`."""
    return _Validator(closed(schema))


def structural_problems(compiled: Any, value: Any, root: tuple[str, ...]) -> list[Problem]:
    """All structural problems of a value that stands at `root` (path parts) in its document, in the order of paths."""
    found = []
    for error in compiled.iter_errors(value):
        found.extend(_worded((*root, *error.absolute_path), error))
    return sorted(found, key=lambda problem: problem.path)


def _worded(parts: tuple[Any, ...], error: ValidationError) -> list[Problem]:
    path = path_text(parts)
    keyword = str(error.validator)
    if keyword == "additionalProperties":
        return _unknown_fields(path, error)
    if keyword == "required":
        return _missing_fields(path, error)
    words = _WORDS.get(keyword, _other)
    return [Problem(path, f"{path} {words(error)}")]


def _unknown_fields(path: str, error: ValidationError) -> list[Problem]:
    known = sorted(_schema_of(error).get("properties", {}))
    return [unknown_field(path, str(name), known) for name in _value_of(error) if name not in known]


def _missing_fields(path: str, error: ValidationError) -> list[Problem]:
    schema = _schema_of(error)
    missing = [name for name in schema["required"] if name not in _value_of(error)]
    found = []
    # the library reports one error per missing field: word only the one this error is about
    for name in missing:
        if error.message.startswith(repr(name)):
            about = schema.get("properties", {}).get(name, {}).get("description", "")
            found.append(Problem(f"{path}.{name}", f"{path}.{name} is required; add it ({_short(about)})"))
    return found


def _short(description: str) -> str:
    return description.rstrip(".")[:200]


def _schema_of(error: ValidationError) -> Schema:
    schema = error.schema
    return schema if isinstance(schema, Mapping) else {}


def _value_of(error: ValidationError) -> Any:
    return error.instance


def _type(error: ValidationError) -> str:
    expected = error.validator_value
    wanted = TYPE_WORDS.get(str(expected), str(expected)) if isinstance(expected, str) else "an integer or a string"
    value = error.instance
    example = f" {shown(value)}" if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    fix = "give it a value or remove it" if value is None else f"write {wanted}"
    return f"must be {wanted}, but is {type_word(value)}{example}; {fix}"


def _enum(error: ValidationError) -> str:
    expected: Any = error.validator_value
    choices = [str(choice) for choice in expected]
    nearest = suggestion(str(error.instance), choices)
    fix = f"did you mean {nearest}?" if nearest else "use one of them"
    return f"is {shown(error.instance)}, but must be one of {', '.join(choices)}; {fix}"


def _pattern(error: ValidationError) -> str:
    about = _short(str(_schema_of(error).get("description", "")))
    return f"is {shown(error.instance)}, which does not match {error.validator_value}; write it as described ({about})"


def _bound(
    text: str, fix: str, measure: Callable[[Any], Any] = lambda value: value
) -> Callable[[ValidationError], str]:
    def words(error: ValidationError) -> str:
        return text.format(actual=measure(error.instance), limit=error.validator_value) + f"; {fix}"

    return words


def _other(error: ValidationError) -> str:
    return f"is not valid: {error.message[:200]}; correct it"


_WORDS: dict[str, Callable[[ValidationError], str]] = {
    "type": _type,
    "anyOf": _type,
    "enum": _enum,
    "pattern": _pattern,
    "minimum": _bound("is {actual}, below its minimum of {limit}", "raise it"),
    "maximum": _bound("is {actual}, above its maximum of {limit}", "lower it"),
    "minLength": _bound("has {actual} characters, fewer than its minimum of {limit}", "lengthen it or remove it", len),
    "maxLength": _bound("has {actual} characters, more than its limit of {limit}", "shorten it", len),
    "minItems": _bound("has {actual} entries, fewer than its minimum of {limit}", "add one or remove the field", len),
    "maxItems": _bound("has {actual} entries, more than its limit of {limit}", "remove some", len),
    "minProperties": _bound("has {actual} fields, fewer than its minimum of {limit}", "add one or remove it", len),
    "maxProperties": _bound("has {actual} fields, more than its limit of {limit}", "remove some", len),
}
