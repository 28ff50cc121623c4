"""Kills, power cuts and mutations: what the database must survive, and proof that we would see."""
