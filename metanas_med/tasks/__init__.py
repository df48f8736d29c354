"""Organ tasks, the task distribution and episodes; independent of networks."""
