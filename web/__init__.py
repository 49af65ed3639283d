"""What people and programs see: the page and the REST routes. Knows nothing of torch."""
