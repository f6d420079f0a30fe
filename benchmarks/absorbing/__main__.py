"""``python -m equimd.benchmarks.absorbing``: the suite with all its options."""

from equimd.benchmarks.absorbing.absorbing_suite import main

main()
