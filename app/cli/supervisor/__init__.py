"""What keeps the processes of `penstock up` alive: decisions in state.py and steps.py, deeds in the rest."""
