"""Ours, the hand-written loop and Beam's documented way, side by side on the same files."""
