"""Annotation file formats: read and write, nothing else."""
