"""Molecular dynamics: batched replicas, integrators, trajectories and what is read off them."""
