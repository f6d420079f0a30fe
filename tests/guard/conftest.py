"""The models and structures of the tests of uncertainties."""

from __future__ import annotations

from tests.uq.conftest import frames, model, rotation, to_batch

__all__ = ["frames", "model", "rotation", "to_batch"]
