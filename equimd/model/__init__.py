"""The equivariant potential."""

from equimd.model.potential import Network, Output, Potential, batch_arguments

__all__ = ["Network", "Output", "Potential", "batch_arguments"]
