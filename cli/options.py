"""Command line options made from settings classes, one for one: a setting is declared once."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, TypeVar

import typer

from equimd.cli.completion import OF_SETTINGS, completing
from equimd.progress import duration
from equimd.registry import Registry

if typing.TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from equimd.config import Settings

F = TypeVar("F", bound=Callable[..., None])


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


def is_time(annotation: Any) -> bool:
    """Whether a setting is a time that may be given as ``45m``, in seconds."""
    from equimd.fields import Seconds

    return Seconds in (annotation, *typing.get_args(annotation))


def shown(default: Any, time: bool = False) -> str:
    """The default as the help text ends with it, where there is one; of a time, with its unit."""
    if default is None or default == () or default == "" or default is False:
        return ""
    if time:
        default = duration(default).removesuffix("00m").removesuffix("00s")
    elif default is True:
        default = "on"
    return f" [default: {default:g}]" if isinstance(default, float) else f" [default: {default}]"


def setting_option(
    cls: type[Settings], key: str, kind: Any = None, field: FieldInfo | None = None
) -> inspect.Parameter:
    """The parameter of one setting, None where the option is not given.

    Args:
        kind: type that typer should parse the option as, where not the setting's own.
        field: what to show of the setting, where not what its class says.
    """
    field = field or cls.known_fields()[key]
    annotation = typing.get_type_hints(cls, include_extras=True).get(
        key, float
    )  # what an extension's ensemble takes is a number
    kind, table = kind or (str if is_time(annotation) else option_type(annotation)), registry_of(annotation)
    metavar = choices(table) if table is not None else "<str>" if kind == list[str] else None
    name = f"--{key.replace('_', '-')}"
    names = [f"{name}/--no-{name[2:]}"] if kind is bool else [name]
    help = f"{field.description}{shown(field.default, is_time(annotation))}"
    known = OF_SETTINGS.get(key) if table is None else table.keys
    offered = None if known is None else completing(known)
    option = typer.Option(*names, help=help, metavar=metavar, show_default=False, autocompletion=offered)
    return inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def with_settings(
    *classes: type[Settings],
    skip: Collection[str] = (),
    kinds: Mapping[str, Any] | None = None,
    fields: Mapping[str, FieldInfo] | None = None,
) -> Callable[[F], F]:
    """Give a command that takes ``**options`` an option for each setting, ahead of its own options.

    The command gets the settings that were given.

    Args:
        skip: settings that are no options.
        kinds: as for :func:`setting_option`, by key.
        fields: the settings that are options, by key, and what to show of them; by default all, as their classes say.
    """

    def made(function: F) -> F:
        hints = typing.get_type_hints(function, include_extras=True)
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name])
            for p in inspect.signature(function).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        options = [
            setting_option(cls, key, (kinds or {}).get(key), (fields or {}).get(key))
            for cls in classes
            for key in (cls.known_fields() if fields is None else fields)
            if key not in skip
        ]

        @functools.wraps(function)
        def command(**given: Any) -> None:
            names = {p.name for p in options}
            function(**{k: v for k, v in given.items() if k not in names or (v is not None and v != [])})

        arguments = [p for p in own if _is_argument(p)]
        parameters = [*arguments, *options, *(p for p in own if not _is_argument(p))]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        del command.__wrapped__  # type: ignore[attr-defined]  # its signature is another one
        return typing.cast(F, command)

    return made


def _is_argument(parameter: inspect.Parameter) -> bool:
    return any(
        isinstance(data, typer.models.ArgumentInfo) for data in getattr(parameter.annotation, "__metadata__", ())
    )
