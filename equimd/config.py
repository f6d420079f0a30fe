"""Frozen, typed settings. Unknown keys are refused, with the nearest valid one named."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from equimd.errors import SEVERAL_FILES, ConfigError
from equimd.fields import File, Files, Seconds, WholeNumber
from equimd.files import STRANGE
from equimd.registry import Registry

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

LARGEST = 2**63 - 1  # of what torch and NumPy take


class Settings(BaseModel):
    """Base of all settings: frozen, keywords alone, nothing unknown allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _no_giants(self) -> Self:
        for key, value in vars(self).items():
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and abs(number) > LARGEST:
                    raise ValueError(f"{key} = {number:.3g}: no number is that large here")
        return self

    @classmethod
    def known_fields(cls) -> dict[str, FieldInfo]:
        """Every key that may be given, and what its class says of it."""
        return dict(cls.model_fields)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str | None = None, base: Self | None = None) -> Self:
        """Settings from a mapping of keys (hyphens or underscores), over those of ``base``.

        Raises:
            ConfigError: an unknown key (the nearest valid one is named) or a value out of its range.
        """
        known = cls.known_fields()
        given = {known_key(key, known, where=where): value for key, value in values.items()}
        try:
            return cls.model_validate({**(base.model_dump() if base else {}), **given})
        except ValidationError as error:
            raise ConfigError(_sentence(error), where=where) from None

    def changed(self, **values: Any) -> Self:
        """The same settings with some of them changed, checked again.

        Raises:
            ConfigError: as :meth:`parse`.
        """
        return self.parse(values, base=self)


def known_key(
    key: object, known: Collection[str], *, where: str | None = None, hint: str = "`--help` lists all"
) -> str:
    """``key`` with underscores, if it is one of ``known``.

    Raises:
        ConfigError: it is not; the nearest one is named, or ``hint``.
    """
    name = str(key).replace("-", "_")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise ConfigError(f"unknown key '{key}'", where=where, hint=f"did you mean '{near[0]}'?" if near else hint)
    return name


#: Classes of radial functions, subclasses of :class:`equimd.model.painn.radial.RadialBasis`, by name.
RADIAL_BASES: Registry[Any] = Registry(
    "radial basis",
    "RADIAL_BASES",
    {
        "gaussian": "equimd.model.painn.radial:Gaussian",
        "bessel": "equimd.model.painn.radial:Bessel",
        "expnorm": "equimd.model.painn.radial:ExpNormal",
    },
)


class ModelConfig(Settings):
    """What a potential is, apart from its weights. PaiNN as published: lmax 1 and Gaussian radial functions."""

    forces: Literal["conservative", "direct"] = Field(
        "conservative", description="forces = -dE/dR, or an equivariant head"
    )
    elements: tuple[int, ...] = Field((), description="atomic numbers the model knows; found in the training data")
    states: tuple[tuple[int | None, int], ...] = Field(
        (), description="charge and multiplicity of training frames, null and 0 if not stated; none: not recorded"
    )
    num_features: int = Field(128, ge=1, le=1024, description="channels of the scalars")
    num_tensors: int | None = Field(
        None, ge=1, le=1024,
        description="channels of the tensors of each l; by default half as many as scalars, as many where lmax is 1",
    )  # fmt: skip
    num_layers: int = Field(3, ge=1, le=32, description="message passing layers")
    num_rbf: int = Field(20, ge=1, le=1024, description="radial basis functions")
    num_readout: int = Field(64, ge=1, le=4096, description="width p of the pooled features under the last layer")
    cutoff: float = Field(5.0, gt=0, description="radius within which an atom sees others, Angstrom")
    lmax: int = Field(3, ge=1, le=3, description="highest rotation order of the features")
    tensor_products: bool = Field(True, description="products of tensors in each layer, where lmax is 2 or more")
    radial_basis: Annotated[str, AfterValidator(RADIAL_BASES.check)] = Field("expnorm", description="radial functions")
    charge_spin: bool = Field(False, description="embed total charge and spin multiplicity")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of weights and activations")
    energy_only: bool = Field(False, description="trained without forces; MD and forces are refused")

    @model_validator(mode="after")
    def _no_more_tensors(self) -> Self:
        if self.num_tensors is not None and self.num_tensors > self.num_features:
            raise ValueError(f"num_tensors = {self.num_tensors} is more than num_features = {self.num_features}")
        return self

    @property
    def tensor_channels(self) -> int:
        """T, stated or by default."""
        if self.num_tensors is not None:
            return self.num_tensors
        return self.num_features if self.lmax == 1 else max(1, self.num_features // 2)

    @property
    def size_in_words(self) -> str:
        """``128 scalars, 64 tensors of each l up to 3, 3 layers``."""
        up_to = "l = 1" if self.lmax == 1 else f"each l up to {self.lmax}"
        return f"{self.num_features} scalars, {self.tensor_channels} tensors of {up_to}, {self.num_layers} layers"


def saved_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model as saved, with those that there were not yet: tensors had the channels of scalars."""
    if "num_features" in values and "num_tensors" not in values:
        return {**values, "num_tensors": values["num_features"]}
    return dict(values)


CHARGE: Any = Field(None, ge=-1000, le=1000, description="total charge of structures that state none, e")
SPIN: Any = Field(None, ge=1, le=1000, description="multiplicity 2S+1 of structures that state none")


class StateSettings(Settings):
    """The electronic state of structures that state none."""

    charge: WholeNumber = CHARGE
    spin: WholeNumber = SPIN


class ReadingSettings(StateSettings):
    """How labelled frames are read; see :func:`equimd.data.open_dataset`."""

    labels: Literal["revised", "md17"] = Field(
        "revised", description="of an rMD17 file: revised, or md17 for the original ones"
    )
    energy_unit: str | None = Field(None, description="of a file that states none: eV, meV, kcal/mol, kJ/mol, Hartree")
    length_unit: str | None = Field(None, description="length unit of such a file: Angstrom, nm, Bohr")
    force_unit: str | None = Field(
        None, description="of the forces, if not energy/length: Hartree/Bohr, eV/Angstrom ..."
    )
    energy_key: str | None = Field(None, description="column of the energies, where several could be meant")
    forces_key: str | None = Field(None, description="column of the forces, where several could be meant")
    mask_fixed: bool = Field(False, description="atoms that a file holds fixed have no force label")


class DataConfig(Settings):
    """Which frames are trained on, and how they are read and split."""

    data: Files = Field((), description="data files or folders, all of them one data set; or bundled:ethanol-train")
    val_data: Files = Field((), description="validation frames; without it they are split off --data")
    test_data: Files = Field((), description="test frames; without it they are split off --data")
    labels: Literal["revised", "md17"] = Field("revised", description="which labels of an rMD17 file")
    subset_size: int | None = Field(None, ge=1, description="use only so many frames of --data, drawn by the seed")
    splits: tuple[float, float, float] | None = Field(
        None, description="train, validation and test frames: three counts, or three fractions"
    )
    split_method: Literal["random", "blocks", "trajectory", "files"] = Field(
        "random", description="random rows, blocks contiguous in time, whole trajectories, or --split-files"
    )
    split_files: Files = Field((), description="files of row numbers: train, validation and (optional) test")
    reference_energies: File | None = Field(
        None, description="file of isolated-atom energies; without it they are fitted to the training frames"
    )
    energy_unit: str | None = Field(None, description="unit of the file's energies, where it states none")
    length_unit: str | None = Field(None, description="unit of the file's lengths, where it states none")
    force_unit: str | None = Field(None, description="unit of the file's forces, if not energy/length: Hartree/Bohr")
    energy_key: str | None = Field(None, description="column of the energies, where several could be meant")
    forces_key: str | None = Field(None, description="column of the forces, where several could be meant")
    mask_fixed: bool = Field(False, description="atoms that a file holds fixed have no force label")
    charge: WholeNumber = CHARGE
    spin: WholeNumber = SPIN
    missing_labels: Literal["refuse", "mask"] = Field(
        "refuse", description="frames without an energy or forces: refuse them, or learn from what they have"
    )
    check_pairs: bool = Field(True, description="refuse energies that do not follow from the forces")

    @property
    def reading(self) -> ReadingSettings:
        """How the frames are read."""
        return ReadingSettings(**{key: getattr(self, key) for key in ReadingSettings.model_fields})


class TrainConfig(Settings):
    """How a potential is trained. Every default of training stands here and nowhere else."""

    num_epochs: int | None = Field(
        None, ge=0, description="passes over the training frames (1000 where --max-time is not given)"
    )
    max_time: Seconds | None = Field(
        None,
        gt=0,
        description="training time, such as 90s, 45m, 2h; the schedule fits itself to it; compilation comes on top",
    )
    max_wall_time: Seconds | None = Field(
        None, gt=0, description="time of this session, all told, such as 24h; a checkpoint is left to go on from"
    )
    stop_before: Seconds | None = Field(
        None, gt=0, description="stop so long before the job of Slurm ends, or before max_wall_time, such as 10m"
    )
    early_stopping_min_epochs: int = Field(0, ge=0, description="never stop early before this many epochs")
    early_stopping_patience: int | None = Field(
        None, ge=1, description="stop when validation has not improved for so many epochs; off by default"
    )
    batch_size_train: int = Field(5, ge=1, description="frames of one training step")
    max_atoms_per_batch: WholeNumber = Field(
        None,
        ge=1,
        description="atoms of one training step, at most: as many frames as fit, not batch_size_train",
    )
    oversized_frames: Literal["refuse", "drop"] = Field(
        "refuse", description="training frames of more than max_atoms_per_batch atoms: refuse them, or leave them out"
    )
    batch_size_inference: int = Field(50, ge=1, description="frames of one batch in validation, test and prediction")
    num_workers: int = Field(0, ge=0, description="processes that prepare batches; 0: this one")
    seed: int = Field(0, ge=0, lt=2**63, description="of the split, the weights and the order of the frames")
    lr: float = Field(2e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    loss: Literal["l2mae", "mse"] = Field(
        "l2mae", description="absolute energy errors and lengths of force errors, or squares of both"
    )
    energy_weight: float = Field(0.1, ge=0, description="weight of the energies in the loss; 0: forces only")
    forces_weight: float = Field(0.9, ge=0, description="weight of the forces in the loss; 0: energies only")
    energy_loss_per_atom: bool = Field(
        False, description="the energy error in the loss is divided by the number of atoms"
    )
    grad_clip: float = Field(10.0, gt=0, description="largest norm of the gradient")
    ema_decay: float = Field(
        0.995, ge=0, lt=1, description="of the moving average of the weights, which is what is kept"
    )
    lr_schedule: Literal["cosine", "plateau", "constant"] = Field(
        "cosine", description="cosine to zero over the budget, halved when validation stalls, or constant"
    )
    warmup_steps: int = Field(200, ge=0, description="steps over which the learning rate rises at the start")
    plateau_patience: int = Field(50, ge=1, description="epochs without improvement before plateau halves the rate")
    val_interval: int | None = Field(
        None, ge=1, description="epochs between validations; by default so many that they take about 2 % of the time"
    )
    checkpoint_interval: Seconds = Field(60.0, gt=0, description="time between checkpoints")
    init: File | None = Field(None, description="run whose model the training starts from")
    pretrain: File | None = Field(
        None, description="learn from cheap labels first: gfn2 or gfn1, whose frames are made; frames; or a run"
    )
    pretrain_time: Seconds | None = Field(
        None, gt=0, description="of --max-time, for making those frames and learning from them; by default chosen"
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1, or auto")
    threads: int | None = Field(
        None, ge=1, description="CPU threads; by default 1 for batches of small molecules, else all cores"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="compile the training step; auto: where it pays back"
    )
    display_unit: Literal["meV", "kcal/mol"] = Field(
        "meV", description="unit in which errors are shown; files are always in eV"
    )
    tensorboard: bool = Field(False, description="also write TensorBoard events, if tensorboard is installed")

    @model_validator(mode="after")
    def _weights(self) -> TrainConfig:
        if self.energy_weight == 0 and self.forces_weight == 0:
            raise ValueError("energy_weight and forces_weight are both 0: nothing would be learned")
        if self.init and self.pretrain:
            raise ValueError("init and pretrain are both given, and a model has one start: leave one of them out")
        if self.pretrain_time and (not self.pretrain or self.pretrain_time >= (self.max_time or float("inf"))):
            raise ValueError("pretrain_time is a part of max_time, below it, and for pretrain: gfn2, frames or a run")
        return self


class RunConfig(Settings):
    """All that a training needs: frames, model, training. In YAML the three are one flat list of keys."""

    dataset: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainConfig = TrainConfig()


#: settings by name, beneath whatever else is stated: for trainings of minutes, of an hour, of hours
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"lmax": 1, "lr": 1e-3},
    "default": {},
    "accurate": {"num_tensors": 128, "lr": 1e-3},
}

# what the training finds out for itself, and no user states
DERIVED_KEYS = ("elements", "states", "energy_only")


SECTIONS: dict[str, type[Settings]] = {"dataset": DataConfig, "model": ModelConfig, "training": TrainConfig}


def config_keys() -> dict[str, str]:
    """Every key a user may set, and the part of :class:`RunConfig` it belongs to, in the template's order."""
    return {
        key: section
        for section, cls in SECTIONS.items()
        for key in cls.model_fields
        if not (section == "model" and key in DERIVED_KEYS)
    }


def config_fields() -> dict[str, FieldInfo]:
    """The same keys, and what stands in their classes about them."""
    return {key: SECTIONS[section].model_fields[key] for key, section in config_keys().items()}


def parse_config(values: Mapping[str, Any], *, where: str | None = None, base: RunConfig | None = None) -> RunConfig:
    """Settings from a flat mapping of keys (hyphens or underscores), over those of ``base``.

    The key ``preset`` stands for the settings of :data:`PRESETS`; the other keys go over them.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named) or a value out of its range.
    """
    known = config_keys()
    if (preset := values.get("preset")) is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ConfigError(f"unknown preset '{preset}'", where=where, hint=", ".join(PRESETS))
        stated = {str(key).replace("-", "_"): value for key, value in values.items() if key != "preset"}
        values = {**PRESETS[preset], **stated}
        if "num_tensors" in PRESETS[preset] and "num_features" in stated and "num_tensors" not in stated:
            values["num_tensors"] = stated["num_features"]  # as many as scalars, whatever their number
    merged: dict[str, dict[str, Any]] = {
        name: getattr(base, name).model_dump() if base else {} for name in ("dataset", "model", "training")
    }
    for key, value in values.items():
        name = known_key(key, known, where=where, hint="`equimd config template` lists all keys")
        merged[known[name]][name] = value
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_sentence(error), where=where) from None


def _sentence(error: ValidationError) -> str:
    """What pydantic found wrong, as one sentence in the user's words."""
    first = error.errors(include_url=False)[0]
    keys = [str(part) for part in first["loc"] if part not in ("dataset", "model", "training")]
    message = first["msg"].removeprefix("Value error, ")
    if not keys:
        return message
    return f"{keys[0]} = {first['input']!r}: {message[:1].lower()}{message[1:]}"


YAML = (".yaml", ".yml")


def read_config(path: str | Path) -> dict[str, Any]:
    """The flat mapping of a YAML settings file.

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping of keys.
    """
    import yaml

    path = Path(path)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "`equimd config template > config.yaml` writes one"
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from None
    except (yaml.YAMLError, RecursionError, *STRANGE) as error:  # of tags such as timestamps, too
        reason = str(error).strip() or type(error).__name__
        told = None if path.suffix.lower() in YAML else f"is it data? {SEVERAL_FILES}"
        raise ConfigError(f"is not YAML: {reason.splitlines()[0]}", where=str(path), hint=told) from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        hint = "`equimd config template`" if path.suffix.lower() in YAML else f"is it data? {SEVERAL_FILES}"
        raise ConfigError("is not a list of `key: value` lines", where=str(path), hint=hint)
    return loaded


def flat_config(config: RunConfig) -> dict[str, Any]:
    """The settings as the flat mapping that :func:`parse_config` reads."""
    out = {}
    for key, section in config_keys().items():
        value = getattr(getattr(config, section), key)
        if isinstance(value, tuple):
            value = [int(v) if isinstance(v, float) and v.is_integer() else v for v in value]
        out[key] = value
    return out


def config_text(config: RunConfig | None = None, *, comments: bool = True) -> str:
    """The settings as YAML, grouped, each with its meaning beside it; without ``config``, the template of defaults."""
    import yaml

    config = config or RunConfig()
    values, section = flat_config(config), ""
    lines: list[str] = []
    titles = {"dataset": "frames", "model": "model", "training": "training"}
    for key, part in config_keys().items():
        if part != section:
            lines += [""] * bool(lines) + [f"# {titles[part]}"]
            section = part
        text = yaml.safe_dump(values[key], default_flow_style=True, width=1000)
        text = text.removesuffix("\n").removesuffix("\n...")
        entry = f"{key}: {text}"
        if comments:
            entry = f"{entry:<40}  # {type(getattr(config, part)).model_fields[key].description}"
        lines.append(entry)
    return "\n".join(lines) + "\n"
