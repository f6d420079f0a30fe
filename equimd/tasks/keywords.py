"""What the functions of all tasks share: settings as keywords, runs in any shape, threads."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from equimd.config import Settings, StateSettings
from equimd.errors import ConfigError
from equimd.notices import doing
from equimd.run import Run

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from equimd.calculators import LoadedModel

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=Settings)

#: Reference methods that can be named, in words.
CALCULATORS = "tblite (GFN2-xTB), gfn1, emt, or module:Class of an ASE calculator"


class InferenceSettings(StateSettings):
    """How a trained model is used on structures or frames."""

    weights: Literal["best", "last"] = Field("best", description="best by validation, or the last ones")
    uncertainty: bool = Field(True, description="of a calibrated run, sigmas of energies and forces")
    calibration: str | None = Field(None, description="its name, of several that the run has; by default the first")
    batch_size_inference: int = Field(50, ge=1, description="structures computed at once")
    device: str = Field("auto", description="cpu, cuda or auto")
    threads: int | None = Field(None, ge=1, description="CPU threads; by default all cores")


def takes(fields: Mapping[str, FieldInfo]) -> Callable[[F], F]:
    """Show settings as the keywords of a function that takes them as ``**options``: in its signature and docstring.

    A setting is declared once, in its class; the function passes ``options`` on to be parsed.
    """

    def named(function: F) -> F:
        signature = inspect.signature(function)
        kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(
                key,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.get_default(call_default_factory=True),
                annotation=field.annotation,
            )
            for key, field in fields.items()
            if key not in signature.parameters
        ]
        function.__signature__ = signature.replace(parameters=[*kept, *keywords])  # type: ignore[attr-defined]
        lines = [f"{p.name}: {fields[p.name].description}" for p in keywords]
        listed = "".join(
            textwrap.fill(line, 116, initial_indent="    ", subsequent_indent="        ") + "\n" for line in lines
        )
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nSettings:\n{listed}"
        return function

    return named


def settings_of(cls: type[S], settings: S | None, options: Mapping[str, Any]) -> S:
    """The settings of a call: those given as an object, with those given as keywords over them.

    Raises:
        ConfigError: an object of another class, an unknown key, or a value out of its range.
    """
    if settings is not None and not isinstance(settings, cls):
        raise ConfigError(f"settings are of class {type(settings).__name__}", hint=f"{cls.__name__}, or keywords")
    return cls.parse(options, base=settings)


def run_of(given: Any) -> Run:
    """The run that is meant by a path, by what training, calibration or ``equimd.load`` returned, or by itself.

    Raises:
        RunError: no such run. ConfigError: something else is given.
    """
    found = given if isinstance(given, Run) else getattr(given, "run", given)
    if isinstance(found, Run):
        return found
    if isinstance(found, (str, Path)):
        return Run.open(found)
    raise ConfigError(f"not a run: {type(given).__name__}", hint="the folder of a run")


def loaded(given: Any, settings: InferenceSettings) -> LoadedModel:
    """The model of a run, as the settings say; a loaded model is taken as it is.

    Raises:
        RunError, ConfigError: no such run, or no such device.
    """
    from equimd.calculators import LoadedModel, load
    from equimd.machine import choose_device

    if isinstance(given, LoadedModel):
        return given
    doing("loading the model")
    return load(
        run_of(given).path,
        which=settings.weights,
        device=str(choose_device(settings.device)),
        calibration=settings.calibration,
    )


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Use that many CPU threads in the block; None leaves torch's number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
