"""Labelled images: what they are, reading and writing them, and turning them into batches."""
