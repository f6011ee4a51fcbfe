"""Read, write, orient, crop and resample volumes; every step has its inverse beside it."""
