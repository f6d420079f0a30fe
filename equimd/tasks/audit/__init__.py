"""A certificate for a calibrated run: fresh runs, frames drawn beforehand, labels, and what they show."""
