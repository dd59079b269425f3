"""Multi-task, universal-feature transfer learning in music source separation with Band-Split RNN."""

__version__ = "0.1.0"
