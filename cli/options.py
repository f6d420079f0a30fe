"""Command line options made from settings classes, one for one: a setting is declared once."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from equimd.registry import Registry

if typing.TYPE_CHECKING:
    from equimd.config import Settings


def option_type(annotation: Any) -> Any:
    """The type typer parses an option as: tuples of any length become lists, durations text."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    parts = [a for a in typing.get_args(annotation) if a is not type(None)]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return option_type(parts[0])
    if typing.get_origin(annotation) is tuple and parts[-1] is Ellipsis:
        return list[str]
    return annotation


def choices(names: Iterable[str]) -> str:
    """How an option shows that it takes one of these: ``<langevin|nose-hoover|nve>``."""
    return f"<{'|'.join(names)}>"


def registry_of(annotation: Any) -> Registry[Any] | None:
    """The table whose names a setting takes."""
    checks = (getattr(data, "func", None) for data in getattr(annotation, "__metadata__", ()))
    return next((owner for c in checks if isinstance(owner := getattr(c, "__self__", None), Registry)), None)


def shown(default: Any) -> str:
    """The default as the help text ends with it, where there is one."""
    if default is None or default == () or default == "" or default is False:
        return ""
    return f" [default: {default:g}]" if isinstance(default, float) else f" [default: {default}]"


def keyword(name: str, annotation: Any) -> inspect.Parameter:
    """A keyword parameter, None where the option is not given."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def setting_option(cls: type[Settings], key: str, kinds: Mapping[str, Any] | None = None) -> inspect.Parameter:
    """The parameter of one setting.

    Args:
        kinds: types that typer should parse an option as, by key, where not the setting's own.
    """
    field = cls.model_fields[key]
    annotation = typing.get_type_hints(cls, include_extras=True)[key]
    kind, table = (kinds or {}).get(key) or option_type(annotation), registry_of(annotation)
    metavar = None if table is None else choices(table)
    name = f"--{key.replace('_', '-')}"
    names = [f"{name}/--no-{name[2:]}"] if kind is bool else [name]
    help = f"{field.description}{shown(field.default)}"
    option = typer.Option(*names, help=help, metavar=metavar, show_default=False)
    return keyword(key, Annotated[kind | None, option])
