"""Who has subscribed to what, and the notifications they get."""
