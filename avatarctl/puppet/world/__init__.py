"""The drawn world of the embedded avatar's second version: faces of 128 pixels that blink, nod and close their lips."""
