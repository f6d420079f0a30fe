"""Absorbing labels by the readout, against retraining."""
