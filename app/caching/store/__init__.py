"""Tables, statements and scripts of this room."""
