"""Training of the embedded network: outside the program; imports anything, nothing imports it."""
