"""How well uncertainties are calibrated, against baselines; how often thresholds are wrong; what it costs."""
