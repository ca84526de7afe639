"""What does an image network cost on a GPU, and on silicon of its own?"""

__version__ = "0.1.0"
