"""The equivariant potential."""

from equimd.model.potential import Output, Potential, batch_arguments

__all__ = ["Output", "Potential", "batch_arguments"]
