"""Finding objects in images and georeferenced scenes of any size."""
