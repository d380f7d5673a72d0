"""The neutral values of a call and its answer, and the units in which configuration writes numbers."""
