"""Other ways to an uncertainty, on the same model, frames, splits and forms of recalibration as the last layer's.

- ``last_layer``: the exact posterior from energies and forces (equimd's own), and from energies alone (LLPR);
- ``ensemble``: members trained with different seeds;
- ``distance``: how far features are from those of training, of the molecule and of each atom.

Each makes a :class:`Method`, whose raw variances go through the same recalibration.
"""
