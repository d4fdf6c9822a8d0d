"""Scoring found objects against labelled images."""
