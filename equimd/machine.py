"""What the machine has: the device to compute on, a compiler."""

from __future__ import annotations

import os
import shutil

import torch

from equimd.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device of ``--device``; ``auto`` is the first GPU there is, else the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device '{name}'", where="--device", hint="cpu, cuda, cuda:1 or auto") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"there is no device '{name}' here", where="--device", hint="--device cpu")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported", where="--device", hint="cpu or cuda")
    return device


def has_compiler() -> bool:
    """Whether a C++ compiler that torch.compile could use is on this machine."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)
