"""``python -m equimd.benchmarks.calibration``: the suite with all its options."""

from equimd.benchmarks.calibration.calibration_suite import main

main()
