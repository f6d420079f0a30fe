"""Molecular dynamics: batched replicas, integrators, the guard, trajectories and what is read off them."""
