"""``python -m equimd.benchmarks.certificates``: the suite with its options."""

from equimd.benchmarks.certificates.certificates_suite import main

main()
