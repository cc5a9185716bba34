"""Tables and pictures of runs, without torch."""
