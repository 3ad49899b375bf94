"""Processes, files and machine: how a program runs, writes and ends."""
