"""Running the model: devices, captured graphs, batches, what to do when memory is short. Knows no files and no HTTP."""
