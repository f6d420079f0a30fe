"""Readers: one function opens every format, told apart by content."""

from __future__ import annotations

from equimd.data.readers.opening import open_dataset as open_dataset

__all__ = ["open_dataset"]
