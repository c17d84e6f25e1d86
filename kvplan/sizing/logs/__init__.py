"""Start-up logs of inference engines: what each line says, and why the pool is what it is."""
