"""The jobs: meta-training, adaptation, prediction, evaluation, benchmarks."""
