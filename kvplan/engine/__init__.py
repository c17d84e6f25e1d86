"""Floor 4: the discrete-event engine. No files, no wall clock, no pandas, no logging."""
