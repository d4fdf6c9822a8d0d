"""Exported models: made, quantised, checked against torch, described and packed."""
