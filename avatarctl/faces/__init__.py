"""Find faces in pictures and follow them: boxes, 468 points, identity, masks; three small networks that ship with the program.

Weights and their licences: ``weights/NOTICE``. Everything runs in plain torch, on a CPU in some 40 ms a picture.
"""
