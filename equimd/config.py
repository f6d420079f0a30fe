"""Frozen, typed settings. Unknown keys are refused, with the nearest valid one named."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of all settings: frozen, nothing unknown allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Settings):
    """What a potential is, apart from its weights. PaiNN as published: the defaults with lmax 1."""

    forces: Literal["conservative", "direct"] = Field("conservative", description="forces = -dE/dR, or an equivariant head")
    elements: tuple[int, ...] = Field((), description="atomic numbers the model knows; found in the training data")
    num_features: int = Field(128, ge=1, description="channels per irrep")
    num_layers: int = Field(3, ge=1, description="message passing layers")
    num_rbf: int = Field(20, ge=1, description="radial basis functions")
    num_readout: int = Field(64, ge=1, description="width p of the pooled features under the last layer")
    cutoff: float = Field(5.0, gt=0, description="r_max, Angstrom")
    lmax: int = Field(1, ge=1, le=3, description="highest rotation order of the features")
    radial_basis: Literal["gaussian", "bessel"] = Field("gaussian", description="radial functions")
    charge_spin: bool = Field(False, description="embed total charge and spin multiplicity")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of weights and activations")
    energy_only: bool = Field(False, description="trained without forces; MD and forces are refused")
