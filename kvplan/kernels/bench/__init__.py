"""What ``python -m kvplan.kernels.benchmark`` measures, and how. See ``benchmark`` for the output's
schema."""
