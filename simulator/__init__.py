"""A simulated upstream: DeepSeek's API, limits and faults, with an exact ledger of what reached it.

It serves the demo, the tests and the benchmarks. Every answer it gives carries `"simulated": true`,
unless a test asks for unmarked ones.
"""
