"""Uncertainty: an exact posterior over a linear layer on what all layers see, recalibrated on held-out frames.

- ``features``: the rows by which energies and forces are linear in the last layer's weights;
- ``rows``: a data set streamed as such rows; ``laplace``: the posterior fitted from them (takes seconds to import);
- ``posterior``: the fitted posterior as plain arrays, and what a model says with it;
- ``samples``, ``metrics``, ``resampling``: how well predicted variances match errors;
- ``recalibration``: from raw to calibrated variances;
- ``draws``: from uncertain energies to uncertain averages over a trajectory.
"""
