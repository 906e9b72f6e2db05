"""Bodies of the commands of `layerroute`; they import what they run when they run it."""
