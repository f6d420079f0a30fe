"""Time, memory and compilation of training and dynamics, beside peers in one interleaved run."""
