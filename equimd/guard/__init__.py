"""What judges a frame: physical limits, the calibrated decision, thresholds, and the calibration that holds them."""
