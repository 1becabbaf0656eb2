"""What recipes and model profiles share: strict typed sections of YAML, `key.path=value` overrides, and every problem
told at once with the nearest right key."""

from __future__ import annotations

import contextlib
import difflib
import reprlib
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from lite_huatuo import nearest
from lite_huatuo.errors import RecipeError

MOST_CHARACTERS, MOST_VALUES, DEPTH, MOST_LINES = 200_000, 20_000, 50, 40  # of a text, its values, an error


class _PlainLoader(yaml.SafeLoader):
    """Makes text, numbers, booleans, null, lists and mappings; nothing else, whatever a text's tags say."""


_PLAIN = ("str", "int", "float", "bool", "null", "seq", "map")
_PlainLoader.yaml_constructors = {
    tag: made
    for tag, made in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix("tag:yaml.org,2002:") in _PLAIN
}
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Section(BaseModel):
    """A part of a file: unknown keys are refused, values are never quietly converted (1 is a float, "1" is not)."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


Model = TypeVar("Model", bound=Section)


def names(package: str) -> list[str]:
    """Return the names of the YAML files that a package ships."""
    return sorted(entry.name[:-5] for entry in resources.files(package).iterdir() if entry.name.endswith(".yaml"))


def text(name_or_path: str, package: str, what: str) -> tuple[str, str]:
    """Return (where, YAML text) of a file that `package` ships, by its name, or of one of the user's, by its path.

    `where` is what errors call it; `what` is the kind of thing ("recipe"). RecipeError suggests the nearest name.
    """
    known = names(package)
    if name_or_path in known:
        shipped = resources.files(package) / f"{name_or_path}.yaml"
        return f"{package.rpartition('.')[2]}/{name_or_path}.yaml", shipped.read_text(encoding="utf-8")
    path = Path(name_or_path)
    try:
        if path.is_file():
            with path.open(encoding="utf-8") as file:
                return str(path), file.read(MOST_CHARACTERS + 1)
    except (OSError, ValueError) as error:  # ValueError: bytes that are no UTF-8
        raise RecipeError(f"{path}: cannot be read ({error})") from None
    near = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}; or give the path of a YAML file"
    neighbour = nearest.file_hint(path) if path.suffix and not near else ""
    raise RecipeError(f"{name_or_path}: no such {what} or file{neighbour}; {hint}")


def read(source: str, where: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the tree of a YAML text with `key.path=value` overrides applied; it is not checked yet."""
    tree = parse(source, where)
    if not isinstance(tree, dict):
        raise RecipeError(f"{where}: expected a mapping of sections or keys, not {type(tree).__name__}")
    for override in overrides:
        _override(tree, override)
    return tree


def parse(source: str, where: str) -> Any:
    """Return the plain values of a YAML text; RecipeError where it is none, too large, or says a key twice.

    No tag makes an object, dates stay text, and aliases may not blow a small text up.
    """
    if len(source) > MOST_CHARACTERS:
        raise RecipeError(f"{where}: longer than {MOST_CHARACTERS:,} characters; is it the right file?")
    try:
        loader = _PlainLoader(source)
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}, DEPTH) > MOST_VALUES:
            raise RecipeError(
                f"{where}: more than {MOST_VALUES:,} values with its aliases written out; is it a recipe?"
            )
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RecipeError(f"{where}: more than {DEPTH} values inside one another") from None
    except (ValueError, KeyError) as error:  # a tag that says int, float or bool before what is none
        raise RecipeError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def check(model: type[Model], tree: dict[str, Any], where: str) -> Model:
    """Return the typed tree, or raise one RecipeError that tells every problem with its dotted path."""
    try:
        return model.model_validate(_floats(tree, model))
    except ValidationError as error:
        lines = [f"{where}: {_explain(problem, model)}" for problem in error.errors()]
        more = [f"{where}: and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
        raise RecipeError("\n".join(lines[:MOST_LINES] + more)) from None


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Return how many values a node stands for, aliases written out; refuse keys that stand twice."""
    if depth == 0:  # too deep, or an alias inside what it names
        raise RecursionError
    if id(node) not in known:
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        known[id(node)] = 1 + sum(_size(part, known, depth - 1) for part in parts)
    return known[id(node)]


def _override(tree: dict[str, Any], override: str) -> None:
    """Apply one `a.b=value`; the value is read as YAML, its type is checked by the schema afterwards."""
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {override}: expected key.path=value, such as ppo.kl_coef=0.05")
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"--set {override}: {key} is not a section")
    tree[keys[-1]] = parse(value, f"--set {path}")


def _floats(tree: Any, model: type[BaseModel]) -> Any:
    """Read 5e-7 as the number it is meant to be: YAML 1.1 takes a float without a dot for text."""
    if not isinstance(tree, dict):
        return tree
    result = {}
    for key, value in tree.items():
        field = model.model_fields.get(key) if isinstance(key, str) else None
        kinds = _kinds(field.annotation) if field else set()
        section = _section(field.annotation) if field else None
        if section is not None:
            value = [_floats(each, section) for each in value] if isinstance(value, list) else _floats(value, section)
        elif float in kinds and str not in kinds and isinstance(value, str):
            with contextlib.suppress(ValueError):  # the schema says what is wrong with it
                value = float(value)
        result[key] = value
    return result


def _kinds(annotation: Any) -> set[Any]:
    """Return the plain types an annotation admits."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_kinds(part) for part in typing.get_args(annotation)))
    return {annotation}


def _section(annotation: Any) -> type[BaseModel] | None:
    """Return the section class that an annotation admits, by itself or as the items of a list."""
    for kind in _kinds(annotation):
        if typing.get_origin(kind) is list:
            return _section(typing.get_args(kind)[0])
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _explain(problem: Any, root: type[BaseModel]) -> str:
    """Return one line for one pydantic error: dotted path, what is wrong, the nearest right key."""
    last = str(problem["loc"][-1]) if problem["loc"] else ""
    member = last.startswith(("constrained-", "literal["))  # what pydantic calls the types of a choice
    path = ".".join(str(part) for part in problem["loc"][: -1 if member else None])
    if problem["type"] == "extra_forbidden":
        parent = _section_at(root, problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), list(parent.model_fields), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(parent.model_fields)}"
        return f"{path}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{path}: missing"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    shown = "" if isinstance(problem["input"], dict) else f", not {reprlib.repr(problem['input'])}"
    return f"{path}: {problem['msg'][0].lower()}{problem['msg'][1:]}{shown}"


def _section_at(model: type[BaseModel], loc: tuple[Any, ...]) -> type[BaseModel]:
    """Return the section class at a path of keys under `model`."""
    for key in loc:
        if isinstance(key, str):  # a number is a place in a list of sections
            inner = _section(model.model_fields[key].annotation)
            assert inner is not None, f"{key} is no section"
            model = inner
    return model
