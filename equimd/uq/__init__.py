"""Uncertainty: an exact posterior over the last layer, calibrated on held-out frames, and thresholds with stated rates.

- ``features``: the rows by which energies and forces are linear in the last layer's weights;
- ``rows``: a data set streamed as such rows; ``laplace``: the posterior fitted from them (takes seconds to import);
- ``posterior``: the fitted posterior as plain arrays, and what a model says with it;
- ``samples``, ``metrics``, ``resampling``: how well predicted variances match errors;
- ``calibration``: from raw to calibrated variances; ``threshold``: from scores to flags and halts.
"""
