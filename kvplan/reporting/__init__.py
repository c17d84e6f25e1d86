"""Floor 7: a result in, something to read out. Nothing here simulates or looks anything up."""
