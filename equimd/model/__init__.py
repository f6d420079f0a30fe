"""The equivariant potential."""

from equimd.model.painn.potential import Network, Output, Potential, batch_arguments

__all__ = ["Network", "Output", "Potential", "batch_arguments"]
