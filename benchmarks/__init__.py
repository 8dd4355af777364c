"""What the server costs: each hot path beside a baseline measured in the same run.

Numbers of a busy machine mean little by themselves, so every bench prints ratios, from rounds that
alternate between the sides, and the CPU that each process on the way took. Nothing here asserts a
time. `make bench` runs all, `make bench BENCH=fqdn` one.
"""
