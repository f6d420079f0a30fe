"""Energies and forces fast: compiled graphs, native kernels, neighbour lists with a skin; forcefield.py is the face."""
