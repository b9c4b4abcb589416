"""Pieces that methods are made of, each in a file: none of them knows a method or a model."""
