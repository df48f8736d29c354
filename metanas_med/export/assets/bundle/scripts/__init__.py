"""Transforms, inferer and network of this bundle; they need numpy, scipy, torch and monai alone."""
