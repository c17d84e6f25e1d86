"""The parts of ``kvplan.result/1``, by what they are about."""
