"""The ensembles that molecular dynamics samples: each is one entry of one table.

Settings, commands, checks, dynamics and summaries read the table; an entry of one's own is added from outside the
package (docs/development/extending.md). The table is read without importing torch.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, model_validator

from equimd.config import Settings
from equimd.errors import ConfigError
from equimd.registry import Registry, imported

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from equimd.md.integrators import Integrator


@dataclass(frozen=True)
class EnsembleOption:
    """A number that ensembles may take: a setting of `simulate` and `calibrate`, and an argument of the integrator.

    Attributes:
        name: of the setting and the argument.
        unit: of its value; ``description``: for help texts, with the unit.
        zero: whether it may be zero; it is never negative.
    """

    name: str
    default: float
    unit: str
    description: str
    zero: bool = True

    def setting(self) -> Any:
        """The field of a settings class."""
        least, above = (0.0, None) if self.zero else (None, 0.0)
        return Field(self.default, ge=least, gt=above, allow_inf_nan=False, description=self.description)

    def check(self, value: Any) -> float:
        """The value, where it is one.

        Raises:
            ValueError: it is not.
        """
        return TypeAdapter(Annotated[float, self.setting()]).validate_python(value)


#: What an integrator may be told beside the time step and its options: K, degrees of freedom, seed of the noise.
Condition = Literal["temperature", "dof", "seed"]


@dataclass(frozen=True)
class Ensemble:
    """One way to make time steps, and what it samples.

    Attributes:
        integrator: subclass of :class:`~equimd.md.integrators.Integrator`, or ``"module:Class"``. It is made with
            ``dt`` (fs), the ``conditions`` and the ``options`` as keyword arguments.
        conserved: name of the quantity that exact integration would keep.
        conditions: which of temperature (K), dof and seed it is told; one without temperature has constant energy.
        options: further settings it is told.
    """

    integrator: type[Integrator] | str
    conserved: str
    conditions: tuple[Condition, ...] = ()
    options: tuple[EnsembleOption, ...] = ()

    @property
    def bath(self) -> bool:
        """Whether momentum is exchanged with a bath (see :func:`~equimd.md.state.degrees_of_freedom`)."""
        return bool(imported(self.integrator).bath)

    @property
    def constant_energy(self) -> bool:
        """Whether there is no thermostat."""
        return "temperature" not in self.conditions

    @property
    def has_friction(self) -> bool:
        """Whether a threshold calibrated in it holds for one friction alone."""
        return FRICTION in self.options

    def make(self, dt: float, *, temperature: float, dof: int, seed: int, settings: object = None) -> Integrator:
        """The integrator.

        Args:
            dt: fs. temperature: K. dof: degrees of freedom. seed: of the noise.
            settings: has options as attributes; those it lacks are at their defaults.

        Raises:
            ConfigError: values the integrator refuses.
        """
        given = {"temperature": temperature, "dof": dof, "seed": seed}
        told = {name: given[name] for name in self.conditions}
        more = {option.name: getattr(settings, option.name, option.default) for option in self.options}
        return imported(self.integrator)(dt=dt, **told, **more)


FRICTION = EnsembleOption("friction", 0.01, "1/fs", "of langevin, 1/fs; 0.01 is 10/ps")
TAU = EnsembleOption("tau", 50.0, "fs", "period of the nose-hoover thermostat, fs", zero=False)

#: A time constant is that many time steps at least: one that is shorter was meant in another unit.
SHORTEST = 10
TIME_STEPS, COLDEST = (0.01, 20.0), 1.0  # fs and K; outside of these, another unit was meant


def check_scale(dt: float, options: Mapping[EnsembleOption, float], temperature: float | None = None) -> None:
    """Refuse numbers that can only be meant in another unit than theirs.

    Args:
        dt: time step, fs. options: their values; those in fs or 1/fs are time constants. temperature: K.

    Raises:
        ConfigError: a time constant of less than ten time steps, a time step or a temperature that is far off.
    """
    least, most = TIME_STEPS
    if 0 < dt < least or dt > most:
        raise ConfigError(f"a time step of {dt:g} fs", hint="dt is in fs: 0.5 suits molecules with hydrogen")
    if temperature and 0 < temperature < COLDEST:
        raise ConfigError(f"a temperature of {temperature:g} K", hint="it is in K: 300, say")
    for option, value in options.items():
        period = {"fs": value, "1/fs": 1.0 / value if value else math.inf}.get(option.unit, math.inf)
        if 0 < period < SHORTEST * dt * (1 - 1e-9):
            which = "is" if option.unit == "fs" else f"is a time constant of {period:.3g} fs, which is"
            raise ConfigError(
                f"{option.name} = {value:g} {option.unit} {which} less than {SHORTEST} time steps of {dt:g} fs",
                hint=f"it is in {option.unit}, not in {option.unit.replace('fs', 'ps')}: {option.default:g} is usual",
            )


ENSEMBLES: Registry[Ensemble] = Registry(
    "ensemble",
    "ENSEMBLES",
    {
        "langevin": Ensemble(
            "equimd.md.integrators:Langevin",
            "total energy minus the heat from the bath",
            ("temperature", "seed"),
            (FRICTION,),
        ),
        "nose-hoover": Ensemble(
            "equimd.md.integrators:NoseHoover",
            "total energy and that of the thermostat chain",
            ("temperature", "dof"),
            (TAU,),
        ),
        "nve": Ensemble("equimd.md.integrators:VelocityVerlet", "total energy"),
    },
)
DEFAULT = "langevin"
#: A setting that names one of them.
EnsembleName = Annotated[str, AfterValidator(ENSEMBLES.check)]


def further_options(fields: Container[str]) -> dict[str, EnsembleOption]:
    """Options of ensembles that are not among the fields of a settings class: those of extensions."""
    found = {option.name: option for ensemble in ENSEMBLES.values() for option in ensemble.options}
    return {name: option for name, option in found.items() if name not in fields}


class EnsembleSettings(Settings):
    """Settings with a field ``ensemble``: options that an extension's ensemble takes may be given beside the fields.

    Those of the ensemble that is chosen are attributes, at their defaults where they are not given; others mean nothing
    and are dropped.
    """

    if TYPE_CHECKING:  # a field of each class, in the place that it has there
        ensemble: EnsembleName
        dt: float

    model_config = ConfigDict(extra="allow")

    @classmethod
    def known_fields(cls) -> dict[str, FieldInfo]:
        fields = cls.model_fields
        return {**fields, **{name: option.setting() for name, option in further_options(fields).items()}}

    @model_validator(mode="after")
    def _options(self) -> Self:
        told = [*ENSEMBLES[self.ensemble].options, *([FRICTION] if getattr(self, "equilibrate", 0.0) else [])]
        values = {option: getattr(self, option.name) for option in told if option.name in type(self).model_fields}
        check_scale(self.dt, values, getattr(self, "temperature", None))
        fields, extra = type(self).model_fields, self.model_extra
        if extra is None:
            return self
        if extra and (unknown := extra.keys() - further_options(fields).keys()):
            raise ValueError(f"there is no setting '{min(unknown)}'")
        chosen = {o.name: o for o in ENSEMBLES[self.ensemble].options if o.name not in fields}
        further = {name: option.check(extra.get(name, option.default)) for name, option in chosen.items()}
        check_scale(self.dt, {chosen[name]: value for name, value in further.items()})
        extra.clear()
        extra.update(further)
        return self
