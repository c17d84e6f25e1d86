"""Between engine and reporting: a scenario file, its resolution, and the run that turns it into a result."""
