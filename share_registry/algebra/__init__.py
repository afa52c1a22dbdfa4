"""The mathematics of stored adapters: gauge, error, rate, prediction, quantisation.

Tensors in, tensors out, no I/O.
"""
