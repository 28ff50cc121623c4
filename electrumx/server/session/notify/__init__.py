"""Subscriptions, and the notifications of their subscribers."""
