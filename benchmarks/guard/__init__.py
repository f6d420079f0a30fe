"""The guard along two trajectories, beside the true error: README's picture."""
