"""Keeps the processes of `penstock up` alive. decisions.py decides; loop.py and child.py act."""
