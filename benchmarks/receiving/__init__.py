"""What ``benchmarks/receive.py`` is made of."""
