"""``python -m equimd.benchmarks.conservation``: the suite with all its options."""

from equimd.benchmarks.conservation.conservation_suite import main

main()
