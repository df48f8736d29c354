"""Organ tasks, task distribution and episodes; never knows a network."""
