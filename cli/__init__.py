"""The command line: one door for every command. It and `app.py` alone exit and print for people."""
