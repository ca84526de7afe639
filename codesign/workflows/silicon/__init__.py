"""Figures of the silicon itself: performance, power and area, and the account compared with standard cells."""
