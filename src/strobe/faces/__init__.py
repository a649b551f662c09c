"""The faces of the door: the only files that ask an array its shape. One a framework."""
