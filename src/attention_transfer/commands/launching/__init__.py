"""Many runs as processes: sweeps and the tables of papers."""
