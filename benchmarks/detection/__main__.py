"""``python -m equimd.benchmarks.detection``: the suite with all its options."""

from equimd.benchmarks.detection.suite import main

main()
