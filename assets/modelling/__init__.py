"""Procedural modelling: every mesh, texture and number under assets/ comes out of this package."""
