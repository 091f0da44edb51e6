"""Local training: tasks, batches, the loop, and what is measured around it."""
