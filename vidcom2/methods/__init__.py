"""One file per method. Importing the package registers them all in `vidcom2.METHODS`."""

from vidcom2.methods import vidcom2

__all__ = ["vidcom2"]
