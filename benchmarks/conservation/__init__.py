"""Conservative against direct forces: errors, drift, time until unstable."""
