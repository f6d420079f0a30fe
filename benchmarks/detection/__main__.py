"""``python -m equimd.benchmarks.detection``: the suite with all its options."""

from equimd.benchmarks.detection.detection_suite import main

main()
